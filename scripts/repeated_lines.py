# SPDX-License-Identifier: Apache-2.0
"""Find code that stands in two places: so many lines in a row that are the same to the letter.

    python scripts/repeated_lines.py [FOLDER] [--lines 8]

Blank lines, comments, docstrings, imports and lines of punctuation alone do not count, nor does indentation. Prints one
line a pair of places and exits 1 if there is any.
"""

from __future__ import annotations

import argparse
import ast
import io
import sys
import tokenize
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

Place = tuple[Path, int]
_TEXTLESS = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)


def code_lines(path: Path) -> list[tuple[int, str]]:
    """Return number and text of each line that counts, without its comment."""
    source = path.read_text("utf-8")
    left_out = _statements_left_out(ast.parse(source, str(path)))
    words: dict[int, list[str]] = defaultdict(list)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in _TEXTLESS and token.start[0] not in left_out:
            for offset, text in enumerate(token.string.split("\n")):
                words[token.start[0] + offset].append(text.strip())
    lines = [(number, " ".join(texts)) for number, texts in sorted(words.items())]
    return [(number, text) for number, text in lines if any(map(str.isalnum, text))]


def _statements_left_out(tree: ast.Module) -> set[int]:
    """Return the lines of imports and docstrings."""
    found: set[int] = set()
    for node in ast.walk(tree):
        is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if is_text or isinstance(node, (ast.Import, ast.ImportFrom)):
            found.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return found


def repeated(paths: list[Path], least: int) -> Iterator[tuple[Place, Place, int]]:
    """Yield pairs of places with at least ``least`` equal lines in a row, and how many they share."""
    files = {path: code_lines(path) for path in paths}
    seen: dict[tuple[str, ...], list[tuple[Path, int]]] = defaultdict(list)
    for path, lines in files.items():
        for start in range(len(lines) - least + 1):
            seen[tuple(text for _, text in lines[start : start + least])].append((path, start))
    for places in seen.values():
        for number, (one, first) in enumerate(places):
            for other, second in places[number + 1 :]:
                if _shared(files[one], files[other], first - 1, second - 1):
                    continue  # the run began before
                length = least
                while _shared(files[one], files[other], first + length, second + length):
                    length += 1
                if one != other or first + length <= second:
                    yield (one, files[one][first][0]), (other, files[other][second][0]), length


def _shared(one: list[tuple[int, str]], other: list[tuple[int, str]], first: int, second: int) -> bool:
    return 0 <= first < len(one) and 0 <= second < len(other) and one[first][1] == other[second][1]


def main() -> int:
    """Print the pairs; return 1 if there are any."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=Path(__file__).parents[1] / "src")
    parser.add_argument("--lines", type=int, default=8)
    options = parser.parse_args()
    pairs = list(repeated(sorted(options.folder.rglob("*.py")), options.lines))
    for (one, first), (other, second), length in sorted(pairs):
        print(f"{one}:{first} and {other}:{second} share {length} lines")
    return int(bool(pairs))


if __name__ == "__main__":
    sys.exit(main())
