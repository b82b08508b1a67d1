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
    errno.EIO: "the disk fails",
    errno.EMFILE: "the limit on open files is too low (ulimit -n)",
}
_TORCH_WRITES = "PytorchStreamWriter failed writing"  # all that torch.save says of a disk that takes no more


def explain(error: BaseException) -> str | None:
    """One line for an error of the machine (disk full, read-only place, name too long), None for every other error.

    Libraries written in other languages hand on the text of the system's error, or nothing but that they could not
    write.
    """
    text = str(error)
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in _DISK:
            place = f"{seen.filename}: " if seen.filename else ""
            return f"{place}{os.strerror(seen.errno)}; {_DISK[seen.errno]}"
        for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS):
            if f"os error {number}" in text or f"errno {number}]" in text:
                return f"{os.strerror(number)}; {_DISK[number]}"
        seen = seen.__cause__ or seen.__context__
    if _TORCH_WRITES in text:
        return f"a file cannot be written; {_DISK[errno.ENOSPC]}"
    return None


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
