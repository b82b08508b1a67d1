# SPDX-License-Identifier: Apache-2.0
"""Which files make up a checkpoint, and whether they are still what was written."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Iterable
from pathlib import Path

from ...extras.files import write_json

NAME = "checkpoint_files.json"
# A larger file is looked at in places; head and tail hold the structure (safetensors, zip).
_WHOLE_BYTES, _BLOCK_BYTES, _BLOCKS = 64 << 20, 256 << 10, 64


def write_file_list(folder: Path) -> None:
    """Write the size and the digest of every file of a finished folder."""
    found = {path.relative_to(folder).as_posix(): [path.stat().st_size, digest(path)] for path in _files(folder)}
    write_json(folder / NAME, {"files": found})


def find_damage(folder: Path, needed: tuple[str, ...], newer: str) -> str | None:
    """Return what is wrong with a checkpoint, None if it is whole.

    Args:
        folder: The checkpoint.
        needed: Files that every checkpoint has.
        newer: A file that checkpoints have since they have a list. Without both, only the structure can be looked at.
    """
    missing = next((name for name in needed if not (folder / name).is_file()), None)
    if missing:
        return f"{missing} is missing"
    if not (folder / NAME).is_file():
        return f"{NAME} is missing" if (folder / newer).exists() else _first(_broken(path) for path in _files(folder))
    try:
        listed = json.loads((folder / NAME).read_text("utf-8"))["files"].items()
        return _first(_changed(folder / name, size, known) for name, (size, known) in listed)
    except (ValueError, TypeError, KeyError, AttributeError):
        return f"{NAME} is damaged"


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


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != NAME)


def _first(found: Iterable[str | None]) -> str | None:
    return next((damage for damage in found if damage), None)


def _changed(path: Path, size: int, known: str) -> str | None:
    if not path.is_file():
        return f"{path.name} is missing"
    try:
        if path.stat().st_size != size:
            return f"{path.name} has {path.stat().st_size:,} bytes instead of {size:,}"
        return None if digest(path) == known else f"{path.name} holds other bytes than were written"
    except OSError as error:
        return f"{path.name} cannot be read ({error.strerror})"


def _broken(path: Path) -> str | None:
    """Look at the structure of a file whose digest nobody knows."""
    try:
        if path.suffix == ".json":
            json.loads(path.read_text("utf-8"))
        elif path.suffix == ".safetensors":
            _check_safetensors(path)
        elif path.suffix in (".pt", ".pth"):
            zipfile.ZipFile(path).close()
    except (ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile):
        return f"{path.name} is damaged"
    except OSError as error:
        return f"{path.name} cannot be read ({error.strerror})"
    return None


def _check_safetensors(path: Path) -> None:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 0 < length <= os.path.getsize(path) - 8:
            raise ValueError
        tensors = json.loads(file.read(length))
    end = max((entry["data_offsets"][1] for name, entry in tensors.items() if name != "__metadata__"), default=0)
    if os.path.getsize(path) != 8 + length + end:
        raise ValueError
