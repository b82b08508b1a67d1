# SPDX-License-Identifier: Apache-2.0
"""Writing files so that a reader sees the old content or the new one, never a half."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any


def write_atomic(path: str | os.PathLike[str], data: str | bytes) -> None:
    """Write a whole file under a temporary name, fsync it, then rename it into place.

    Args:
        path: Final file; its folder is made when missing.
        data: Text (UTF-8) or bytes.

    Raises:
        OSError: The folder cannot be made or written.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data.encode("utf-8") if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write ``value`` as indented UTF-8 JSON, atomically."""
    write_atomic(path, json.dumps(value, ensure_ascii=False, indent=2, default=str) + "\n")


def publish_folder(staging: str | os.PathLike[str], final: str | os.PathLike[str]) -> None:
    """Make a finished folder appear under its final name in one step.

    Every file is fsynced first, so that after a power cut the folder is whole or absent.

    Args:
        staging: Folder that holds the finished files, on the same file system as ``final``.
        final: Name it shall have; must not exist, or be an empty folder.
    """
    for root, _, names in os.walk(staging):
        for name in names:
            _sync(os.path.join(root, name))
        _sync(root)
    os.replace(staging, final)
    _sync(os.path.dirname(os.path.abspath(final)))


def _sync(path: str) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    value = os.umask(0)
    os.umask(value)
    return value
