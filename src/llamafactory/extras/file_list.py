# SPDX-License-Identifier: Apache-2.0
"""Which files make up a folder of ours, and whether they are still what was written."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterable
from pathlib import Path

from .errors import ConfigError
from .files import check_safetensors, read_json, write_json

# A larger file is looked at in places; head and tail hold the structure (safetensors, zip).
_WHOLE_BYTES, _BLOCK_BYTES, _BLOCKS = 64 << 20, 256 << 10, 64


def write_file_list(folder: Path, name: str) -> None:
    """Write the size and the digest of every file of a finished folder into its file ``name``."""
    found = {_place(path, folder): [path.stat().st_size, digest(path)] for path in _files(folder, name)}
    write_json(folder / name, {"files": found})


def find_damage(folder: Path, name: str, needed: tuple[str, ...] = (), newer: str | None = None) -> str | None:
    """Return what is wrong with a folder, None if it is whole.

    Args:
        folder: That :func:`write_file_list` was called for.
        name: Of the list.
        needed: Files that every such folder has.
        newer: A file that such folders have since they have a list. Without both, only the structure can be looked at.
    """
    missing = next((file for file in needed if not (folder / file).is_file()), None)
    if missing:
        return f"{missing} is missing"
    if not (folder / name).exists():
        if newer is not None and (folder / newer).exists():
            return f"{name} is missing"
        return _first(_broken(path, _place(path, folder)) for path in _files(folder, name))
    try:
        listed = read_json(folder / name)["files"].items()
        return _first(_changed(folder / file, file, size, known) for file, (size, known) in listed)
    except (ConfigError, ValueError, TypeError, KeyError, AttributeError):
        return f"{name} is damaged"


def digest(path: Path) -> str:
    """Return a hash of a file: of all its bytes, or of many places in a large one."""
    hasher, size = hashlib.blake2b(digest_size=16), path.stat().st_size
    with path.open("rb") as file:
        if size <= _WHOLE_BYTES:
            while chunk := file.read(1 << 20):
                hasher.update(chunk)
            return hasher.hexdigest()
        for number in range(_BLOCKS):
            file.seek((size - _BLOCK_BYTES) * number // (_BLOCKS - 1))
            hasher.update(file.read(_BLOCK_BYTES))
    return hasher.hexdigest()


def _files(folder: Path, name: str) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / name)


def _place(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()


def _first(found: Iterable[str | None]) -> str | None:
    return next((damage for damage in found if damage), None)


def _changed(path: Path, place: str, size: int, known: str) -> str | None:
    if not path.is_file():
        return f"{place} is missing"
    try:
        if path.stat().st_size != size:
            return f"{place} has {path.stat().st_size:,} bytes instead of {size:,}"
        return None if digest(path) == known else f"{place} holds other bytes than were written"
    except OSError as error:
        return f"{place} cannot be read ({error.strerror})"


def _broken(path: Path, place: str) -> str | None:
    """Look at the structure of a file whose digest nobody knows."""
    try:
        if path.suffix == ".json":
            read_json(path, object)
        elif path.suffix == ".safetensors" and (wrong := check_safetensors(path)):
            return f"{place} {wrong}"
        elif path.suffix in (".pt", ".pth"):
            zipfile.ZipFile(path).close()
    except (ValueError, zipfile.BadZipFile):
        return f"{place} is damaged"
    except OSError as error:
        return f"{place} cannot be read ({error.strerror})"
    return None
