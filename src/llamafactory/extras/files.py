# SPDX-License-Identifier: Apache-2.0
"""Files: written so that a reader sees the old content or the new one, never a half; read, or one line why not."""

from __future__ import annotations

import glob
import json
import os
import socket
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import psutil

from .errors import ConfigError, first_line


def read_text(path: str | os.PathLike[str], key: str = "", cure: str = "") -> str:
    """Read a file of UTF-8 text, with or without a byte-order mark.

    Args:
        path: The file.
        key: The configuration key that led to it.
        cure: What to do when it is damaged.

    Raises:
        ConfigError: It cannot be read, or is no such text; names key and file.
    """
    ending = f"; {cure}" if cure else ""
    try:
        return Path(path).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        place = f"byte {error.object[error.start]:#04x} at {error.start + 1}"
        raise ConfigError(f"{_named(path, key)} is not UTF-8 text ({place}){ending}") from None
    except FileNotFoundError:
        raise ConfigError(f"{_named(path, key)} does not exist") from None
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        reason = getattr(error, "strerror", None) or first_line(error)
        raise ConfigError(f"{_named(path, key)} cannot be read: {reason}{ending}") from None


def read_json(path: str | os.PathLike[str], shape: type = dict, key: str = "", cure: str = "") -> Any:
    """Read a JSON file whose top level is of one shape.

    Args:
        path: The file.
        shape: ``dict``, ``list`` or ``object`` (any).
        key: The configuration key that led to it.
        cure: What to do when it is damaged.

    Raises:
        ConfigError: It cannot be read, is no JSON, or of another shape; names key and file.
    """
    ending, where = f"; {cure}" if cure else "", _named(path, key)
    value = parse_json(read_text(path, key, cure), where, ending)
    if not isinstance(value, shape):
        wanted = "a list" if shape is list else "an object with named fields"
        raise ConfigError(f"{where}: the top level is {name_of(value)}, expected {wanted}{ending}")
    return value


def parse_json(text: str, where: str, ending: str = "") -> Any:
    """Parse JSON.

    Raises:
        ConfigError: It is none, or nested too deep; the line begins with ``where`` and ends with ``ending``.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        reason = f"{error.msg} in line {error.lineno}, column {error.colno}" if text.strip("\0 \n") else "it is empty"
    except RecursionError:
        reason = "it is nested too deep"
    except ValueError as error:  # a number of more digits than Python reads
        reason = first_line(error)
    raise ConfigError(f"{where} is not JSON: {reason}{ending}") from None


def name_of(value: Any) -> str:
    """What a value that was read from JSON is, in words."""
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def check_safetensors(path: Path) -> str | None:
    """Look at the structure of a safetensors file, not at its numbers; returns what is wrong with it, or None."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 0 < length <= path.stat().st_size - 8:
                return "has no head (cut off, or no safetensors file)"
            tensors = json.loads(file.read(length))
            ends = [entry["data_offsets"][1] for name, entry in tensors.items() if name != "__metadata__"]
        wanted = 8 + length + max(ends, default=0)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    except (ValueError, KeyError, TypeError, AttributeError, LookupError, RecursionError):
        return "has a broken head"
    found = path.stat().st_size
    return None if found == wanted else f"has {found:,} bytes instead of {wanted:,}"


def _named(path: str | os.PathLike[str], key: str) -> str:
    return f"{key}: {os.fspath(path)}" if key else os.fspath(path)


def make_writable(folder: Path, key: str) -> None:
    """Make a folder before anything is computed for it.

    Raises:
        ConfigError: It cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{key}: {folder} cannot be made ({error.strerror})") from None
    if not os.access(folder, os.W_OK):
        raise ConfigError(f"{key}: {folder} is not writable")


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Write a file under a temporary name inside the block; at its end, fsync it and rename it into place.

    What a killed process of this machine left of the same file is removed; nothing appears if the block fails.

    Args:
        path: Final file; its folder is made when missing.

    Raises:
        OSError: The folder cannot be made or written.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        handle, temporary = _new_temporary(target)
    except OSError as error:
        error.filename = str(target)  # not the temporary name
        raise
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        set_usual_mode(temporary)
        os.replace(temporary, target)
    except BaseException as error:
        os.unlink(temporary)
        if isinstance(error, OSError):  # writing says only what went wrong, not where
            error.filename = str(target)
        raise


def write_atomic(path: str | os.PathLike[str], data: str | bytes) -> None:
    """Write a whole file: text (UTF-8) or bytes, as :func:`whole_file` does.

    Raises:
        OSError: The folder cannot be made or written.
    """
    with whole_file(path) as file:
        file.write(data.encode("utf-8") if isinstance(data, str) else data)


def _new_temporary(target: Path) -> tuple[int, str]:
    """Open a file beside the target that names its machine (others may see the folder too) and its process."""
    prefix = f".{target.name}.{zlib.crc32(socket.gethostname().encode()):08x}-"
    for left in target.parent.glob(f"{glob.escape(prefix)}*"):
        process = left.name.removeprefix(prefix).partition("-")[0]
        if process.isdigit() and not psutil.pid_exists(int(process)):
            left.unlink(missing_ok=True)
    return tempfile.mkstemp(dir=target.parent, prefix=f"{prefix}{os.getpid()}-")


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write ``value`` as indented UTF-8 JSON, atomically."""
    write_atomic(path, json.dumps(value, ensure_ascii=False, indent=2, default=str) + "\n")


def publish_folder(staging: str | os.PathLike[str], final: str | os.PathLike[str]) -> None:
    """Make a finished folder appear under its final name in one step.

    Every file is fsynced first, so that after a power cut the folder is whole or absent, and gets its usual mode.

    Args:
        staging: Folder that holds the finished files, on the same file system as ``final``.
        final: Name it shall have; must not exist, or be an empty folder.
    """
    for root, _, names in os.walk(staging):
        for name in names:
            set_usual_mode(os.path.join(root, name))
            _sync(os.path.join(root, name))
        _sync(root)
    os.replace(staging, final)
    _sync(os.path.dirname(os.path.abspath(final)))


def set_usual_mode(path: str | os.PathLike[str]) -> None:
    """Let those read a file whom the umask lets; safetensors 0.8 writes files for their owner alone."""
    os.chmod(path, 0o666 & ~_umask())


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
