# SPDX-License-Identifier: Apache-2.0
"""Ways in which a file can be broken: each takes a path and leaves something else in its place."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

Damage = Callable[[Path], None]


def _replace(path: Path, content: bytes) -> None:
    path.unlink()  # it may be a hard link to the whole one
    path.write_bytes(content)


def cut(path: Path) -> None:
    _replace(path, path.read_bytes()[: path.stat().st_size // 2])


def zeroed(path: Path) -> None:
    _replace(path, bytes(path.stat().st_size))


def emptied(path: Path) -> None:
    _replace(path, b"")


def a_list(path: Path) -> None:
    _replace(path, b'["a", 1, null]\n')


def no_utf8(path: Path) -> None:
    _replace(path, b"\xff\xfe" + path.read_bytes())


def deep(path: Path) -> None:
    """JSON (and YAML) nested without end."""
    _replace(path, b'{"a":' * 100_000 + b"1" + b"}" * 100_000)


def removed(path: Path) -> None:
    path.unlink()


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def unreadable(path: Path) -> None:
    """A file whose reading fails, for root as well."""
    path.unlink()
    path.symlink_to("/proc/self/mem")


def _json(path: Path, change: Callable[[Any], Any]) -> None:
    values = json.loads(path.read_bytes())
    _replace(path, json.dumps({key: change(value) for key, value in values.items()}).encode())


def all_null(path: Path) -> None:
    _json(path, lambda value: None)


def other_types(path: Path) -> None:
    """Text for numbers and switches, a number for everything else."""
    _json(path, lambda value: "many" if isinstance(value, int | float) else 7)


ANY: tuple[Damage, ...] = (cut, zeroed, emptied, a_list, no_utf8, removed, a_folder)
if sys.platform == "linux":
    ANY += (unreadable,)
JSON_ONLY: tuple[Damage, ...] = (deep, all_null, other_types)


def damages_of(path: Path) -> list[Damage]:
    """What can be done to a file; those that need JSON only to a JSON object."""
    if path.suffix != ".json":
        return list(ANY)
    is_object = isinstance(json.loads(path.read_bytes()), dict)
    return [*ANY, *(JSON_ONLY if is_object else JSON_ONLY[:1])]


def twin(source: Path, place: Path) -> Path:
    """Copy a folder by hard links; a damage breaks the link first."""
    shutil.copytree(source, place, copy_function=lambda a, b: Path(b).hardlink_to(a), symlinks=True)
    return place
