# SPDX-License-Identifier: Apache-2.0
"""Errors that are the user's to mend: shown as one line, without a traceback."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from .secrets import mask


class ConfigError(ValueError):
    """Bad input (a key, a file, a row). The message is one line: what, where, the value, the choices."""

    exit_code = 1


class UsageError(ConfigError):
    """The command itself cannot be taken: unknown command, or a part that is not built yet."""

    exit_code = 2


class ModelFault(ConfigError):
    """The model computes no numbers for what was asked; no request is to blame."""


def first_line(error: BaseException) -> str:
    """The first line of what another library says, for an error of ours; the error's name when it says nothing.

    A line that ends with a colon says nothing without the next one.
    """
    lines = (str(error).strip() or type(error).__name__).splitlines()
    return " ".join(line.strip() for line in lines[: 1 + lines[0].endswith(":")])


def short(value: object, most: int = 80) -> str:
    """A value for the middle of a line of ours, in at most ``most`` characters."""
    text = repr(value)
    return text if len(text) <= most else text[: most - 3] + "..."


def first_names(names: Sequence[str], most: int = 20) -> str:
    """A list for the middle of a line of ours: the first names, and whether there are more."""
    return (", ".join(names[:most]) or "none") + ", …" * (len(names) > most)


_DISK = {
    errno.ENOSPC: "free some space, or name another place",
    errno.EDQUOT: "free some space, or name another place",
    errno.EFBIG: "the limit on the size of files is too low (ulimit -f)",
    errno.EROFS: "name a place that can be written",
    errno.EACCES: "name another place, or have its permissions changed",
    errno.EPERM: "name another place, or have its permissions changed",
    errno.ENAMETOOLONG: "name a shorter path",
    errno.ENOTDIR: "a part of the path is a file",
    errno.EISDIR: "it is a folder, a file is needed",
    errno.EEXIST: "it is in the way of what is to be made there; name another place",
    errno.EIO: "the disk fails",
    errno.EMFILE: "the limit on open files is too low (ulimit -n)",
}
# All that torch.save says of a disk that takes no more: by a file's name, or by an open file.
_TORCH_WRITES = ("PytorchStreamWriter failed writing", "unexpected pos ")


_NO_TEMPORARY = "No usable temporary directory"  # Python has tried to write into each


def explain(error: BaseException, place: str | os.PathLike[str] = "") -> str | None:
    """One line for an error of the machine (disk full, read-only place, name too long), None for every other error.

    Libraries written in other languages hand on the text of the system's error, or nothing but that they could not
    write.

    Args:
        error: What was raised.
        place: What was being written, for an error that does not say it.
    """
    text = str(error)
    where = f"{os.fspath(place)}: " if place else ""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in _DISK:
            where = f"{seen.filename}: " if seen.filename else where
            return f"{where}{os.strerror(seen.errno)}; {_DISK[seen.errno]}"
        for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS):
            if f"os error {number}" in text or f"errno {number}]" in text:
                return f"{where}{os.strerror(number)}; {_DISK[number]}"
        seen = seen.__cause__ or seen.__context__
    if any(words in text for words in _TORCH_WRITES):
        return f"{where}a file cannot be written; {_DISK[errno.ENOSPC]}"
    if _NO_TEMPORARY in text:
        return f"{first_line(error)}; free some space, or name another place by TMPDIR"
    return None


@contextmanager
def writing(place: str | os.PathLike[str]) -> Iterator[None]:
    """Name what was being written when the machine takes no more: only opening a file says which one it was.

    Args:
        place: A file, or the folder that a library writes files of its own choice into.

    Raises:
        ConfigError: It could not be written.
    """
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:  # libraries of other languages have errors of their own
        line = explain(error, place)
        if line is None:
            raise
        raise ConfigError(line) from error


def shown(error: BaseException) -> tuple[str, int] | None:
    """The last line of a command that ends with an error that its user can mend, and the exit code; else None."""
    if isinstance(error, ConfigError):
        return mask("error: " + " ".join(str(error).splitlines())), error.exit_code
    line = explain(error)
    return None if line is None else (mask(f"error: {line}"), 1)


@contextmanager
def in_one_line(place: str, cure: str = "") -> Iterator[None]:
    """Say in one line whatever another library raises on content that it cannot use.

    Only around a call that does nothing but read what the user named: there every error is one of the content.

    Args:
        place: Begins the line: the key and the file.
        cure: Ends it.

    Raises:
        ConfigError: It failed.
    """
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:  # readers of other languages raise bare exceptions of their own
        if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
            raise
        named = isinstance(error, KeyError | AttributeError | TypeError | IndexError)
        reason = f"{type(error).__name__}: {first_line(error)}" if named else first_line(error)
        raise ConfigError(f"{place}: {reason[:300]}{cure and '; '}{cure}") from error
