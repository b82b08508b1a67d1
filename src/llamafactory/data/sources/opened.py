# SPDX-License-Identifier: Apache-2.0
"""Files opened for reading, the place of a row in them, and their text: UTF-8, or named as what it looks like."""

from __future__ import annotations

import gzip
import io
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any, NamedTuple, cast

from ...extras.errors import ConfigError, first_line
from .cloud import open_cloud

Row = dict[str, Any]


class Place(NamedTuple):
    """Where a row stands: file (or hub set), what is counted (line or row), and its number from 1."""

    file: str
    unit: str
    number: int

    def __str__(self) -> str:
        return f"{self.file} {self.unit} {self.number}"


NumberedRow = tuple[Place, Row]
# A row, or what is wrong with it; its error names the place too.
FoundRow = tuple[Place, Row | ConfigError]

_HIGH = re.compile(rb"[\x80-\xff]+")


def open_bytes(path: str) -> IO[bytes]:
    """Open a file of this machine or of an object store, decompressed if its name ends in ``.gz`` or ``.zst``."""
    try:
        file = open_cloud(path) if "://" in path else open(path, "rb")  # noqa: SIM115 (the caller closes it)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    if path.endswith(".gz"):
        return cast(IO[bytes], gzip.open(file, "rb"))
    if path.endswith(".zst"):
        import pyarrow as pa

        return cast(IO[bytes], io.BufferedReader(pa.CompressedInputStream(pa.PythonFile(file, "r"), "zstd")))
    return file


@contextmanager
def readable(path: str) -> Iterator[None]:
    """Name the file of which the disk, or what decompresses it, cannot go on reading."""
    try:
        yield
    except (OSError, EOFError, zlib.error) as error:  # a disk that fails, a damaged gzip file
        raise ConfigError(f"{path}: cannot be read: {first_line(error)}") from None


def lines(path: str) -> Iterator[tuple[int, str | ConfigError]]:
    """Yield numbered lines of text that are not blank; a byte-order mark is dropped."""
    with readable(path), open_bytes(path) as file:
        for number, raw in enumerate(file, start=1):
            line = decode(raw, Place(path, "line", number))
            if isinstance(line, ConfigError) or line.strip():
                yield number, line


def decode(raw: bytes, place: Place) -> str | ConfigError:
    """The text of one line, without its end."""
    if place.number == 1:
        raw = raw.removeprefix(b"\xef\xbb\xbf")
    try:
        return raw.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        return not_utf8(raw, error.start, str(place), place.file)


def not_utf8(raw: bytes, start: int, where: str, path: str) -> ConfigError:
    """Say which byte is no UTF-8, what the text looks like, and how it is converted.

    Args:
        raw: Bytes of the text.
        start: Index of the byte.
        where: Place, for the message.
        path: File that is to be converted.
    """
    encoding = guess_encoding(raw)
    stem, dot, ending = path.rpartition(".")
    cure = f"iconv -f {encoding} -t UTF-8 '{path}' > '{stem}.utf8{dot}{ending}'"
    return ConfigError(
        f"{where}: not UTF-8 text (byte {raw[start]:#04x} at {start + 1}); it looks like {encoding}; convert it: {cure}"
    )


def guess_encoding(raw: bytes) -> str:
    """Name the encoding that bytes that are no UTF-8 most likely have, as ``iconv`` spells it.

    Letters beyond ASCII stand alone in western European words, in pairs of bytes in Chinese, and in words of any
    length in Cyrillic.
    """
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "UTF-16"
    runs = _HIGH.findall(raw)
    if sum(map(len, runs)) < 1.5 * len(runs):
        return "CP1252"
    try:
        raw.decode("gb18030")
    except UnicodeDecodeError:
        return "CP1251"
    return "GB18030" if all(len(run) % 2 == 0 for run in runs) else "CP1251"
