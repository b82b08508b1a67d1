# SPDX-License-Identifier: Apache-2.0
"""The check of ``make quality`` for code that stands in two places finds it, and nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "scripts" / "repeated_lines.py"
BODY = [f"    total = total * {number} + first[{number}]" for number in range(8)]


def run(folder: Path, *options: str) -> tuple[int, list[str]]:
    done = subprocess.run([sys.executable, SCRIPT, folder, *options], capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    return done.returncode, [line.replace(f"{folder}/", "") for line in done.stdout.splitlines()]


def write(folder: Path, name: str, body: list[str], head: str = "total = 0\nif total == 0:") -> None:
    (folder / name).write_text("\n".join([head, *body]) + "\n")


def test_eight_lines_in_two_files_are_one_pair(tmp_path):
    write(tmp_path, "a.py", BODY)
    write(tmp_path, "b.py", BODY, head='"""What b is for."""\nif True:')
    assert run(tmp_path) == (1, ["a.py:3 and b.py:3 share 8 lines"])


def test_seven_lines_are_none_unless_asked_for(tmp_path):
    write(tmp_path, "a.py", BODY[:7])
    write(tmp_path, "b.py", BODY[:7], head="if True:")
    assert run(tmp_path) == (0, [])
    assert run(tmp_path, "--lines", "7") == (1, ["a.py:3 and b.py:2 share 7 lines"])


def test_comments_and_indentation_hide_nothing(tmp_path):
    write(tmp_path, "a.py", BODY)
    other = [line for text in BODY for line in (f"    {text}  # as before", "", "        # and so on")]
    write(tmp_path, "b.py", other, head="for _ in ():\n    if True:")
    assert run(tmp_path) == (1, ["a.py:3 and b.py:3 share 8 lines"])


def test_docstrings_and_imports_do_not_count(tmp_path):
    same = ['"""One', *[f"line {number}" for number in range(9)], '"""', *[f"import m{n}" for n in range(9)]]
    for name in ("a.py", "b.py"):
        (tmp_path / name).write_text("\n".join([*same, f"x = '{name}'"]) + "\n")
    assert run(tmp_path) == (0, [])


def test_a_file_may_repeat_itself_neither(tmp_path):
    write(tmp_path, "a.py", [*BODY, "if total:", *BODY])
    assert run(tmp_path) == (1, ["a.py:3 and a.py:12 share 8 lines"])
