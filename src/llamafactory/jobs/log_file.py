# SPDX-License-Identifier: Apache-2.0
"""The output of a run: two files that never grow beyond a bound, and their end as a terminal would show it."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import BinaryIO

FILE_NAME = "output.log"
MOST_BYTES = 16 * 2**20  # of each of the two
# What moves the cursor or colours text; a page shows none of it.
_ESCAPES = re.compile(r"\x1b(\[[0-9;?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)?|[@-Z\\-_])")


class RotatedLog:
    """Takes output without end; whoever writes to it is never held up, and never fails.

    Args:
        path: The file; when it is full it becomes ``<path>.1``, in place of the one before.
        most: Bytes of a file.
    """

    def __init__(self, path: Path, most: int = MOST_BYTES) -> None:
        self.path, self._most, self._lost, self._reason = path, most, 0, ""
        self._file: BinaryIO | None = None

    def write(self, data: bytes) -> None:
        """Add output; what a full disk does not take is counted, and named once it takes some again."""
        said = f"\n[{self._lost:,} bytes of output are lost: {self._reason}]\n".encode() if self._lost else b""
        try:
            self._add(said + data)
            self._lost = 0
        except OSError as error:
            self._lost += len(data)
            self._reason = os.strerror(error.errno) if error.errno else str(error)
            self.close()

    def _add(self, data: bytes) -> None:
        if self._file is None:
            self._file = self.path.open("ab", buffering=0)
        if self._file.tell() >= self._most:
            self.close()
            os.replace(self.path, old_of(self.path))
            self._file = self.path.open("ab", buffering=0)
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]

    def close(self) -> None:
        """Close the file; a further write opens it again."""
        if self._file is not None:
            self._file.close()
        self._file = None


def old_of(path: Path) -> Path:
    """The file before the one that is being written."""
    return path.with_name(f"{path.name}.1")


def read_end(path: Path, most: int) -> str:
    """Return the last ``most`` bytes of output as text, the earlier file's included; "" if there is none."""
    data = _end_of(path, most)
    if len(data) < most:
        data = _end_of(old_of(path), most - len(data)) + data
    return data.decode("utf-8", "replace")


def _end_of(path: Path, most: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - most))
            return file.read(most)
    except OSError:
        return b""


def as_shown(text: str) -> str:
    """Return output as a terminal leaves it on the screen: of a line that was drawn again, the last drawing.

    >>> as_shown("loading  1%\\rloading 99%\\r\\nok\\x1b[32m!\\x1b[0m")
    'loading 99%\\nok!'
    """
    lines = _ESCAPES.sub("", text).split("\n")
    return "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in lines)
