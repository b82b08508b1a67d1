# SPDX-License-Identifier: Apache-2.0
"""Rows of real text that repeats little: the docstrings of the packages that are installed beside this one.

Reproducible where the same packages are installed; which rows they are is said by the hash that is printed.
"""

from __future__ import annotations

import ast
import hashlib
import json
import random
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

_SHORTEST = 80  # characters of a docstring
_LONGEST = 6000


def write_real_rows(path: Path, most: int | None = None) -> int:
    """Write alpaca rows, one a docstring, each text once and in an order that is drawn; returns how many.

    Args:
        path: The jsonl file.
        most: Not more rows than these.
    """
    home = Path(sysconfig.get_paths()["purelib"])
    seen: set[str] = set()
    rows = []
    for file in sorted(home.rglob("*.py")):
        for name, text, code in _documented(file):
            if text not in seen:
                seen.add(text)
                rows.append({"instruction": f"Write the documentation of `{name}`.", "input": code, "output": text})
    random.Random(0).shuffle(rows)
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows[:most]]
    path.write_text("".join(lines), "utf-8")
    digest = hashlib.sha256("".join(lines).encode()).hexdigest()[:12]
    print(f"{len(lines):,} rows of docstrings below {home.name}, sha256 {digest}")
    return len(lines)


def _documented(file: Path) -> Iterator[tuple[str, str, str]]:
    """Yield name, docstring and the beginning of what is documented in a file."""
    try:
        source = file.read_text("utf-8")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(source)
    except (SyntaxError, UnicodeDecodeError, ValueError, RecursionError):
        return
    lines = source.splitlines()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            text = ast.get_docstring(node)
            if text and _SHORTEST <= len(text) <= _LONGEST:
                yield node.name, text, "\n".join(lines[node.lineno - 1 : node.body[0].lineno - 1])[:500]
