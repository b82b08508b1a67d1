# SPDX-License-Identifier: Apache-2.0
"""Raw rows by number: where each row of a data set begins, so that any row is one read away.

Files of one row a line (jsonl, such json, txt) are indexed where they lie. Everything else (lists of JSON, csv,
compressed files, parquet, arrow, hubs, object stores) is copied once to the cache as JSON lines.
"""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from ...extras.errors import ConfigError
from ...extras.files import write_json
from .dataset_info import DatasetAttr
from .files import is_one_row_a_line, list_files, parse_line, read_rows
from .opened import NumberedRow, Place, readable

_SPOOL, _FILES = "rows.jsonl", "files.json"
_COLUMNS = {"offsets": "q", "lengths": "i", "numbers": "i", "files": "i"}


def write_index(attr: DatasetAttr, folder: Path) -> None:
    """Index the rows of a set; their content is not looked at, unless it has to be copied.

    Args:
        attr: The set.
        folder: Empty or missing; gets the index, and the copy of rows that cannot be read from the middle.

    Raises:
        ConfigError: A file is missing or holds no rows; of a copied file also: a row is broken.
    """
    folder.mkdir(parents=True, exist_ok=True)
    columns = {name: array(kind) for name, kind in _COLUMNS.items()}
    if attr.place == "file" and all(map(is_one_row_a_line, list_files(attr))):
        files = [[path, os.path.abspath(path), "line"] for path in list_files(attr)]
        for number, (path, _, _) in enumerate(files):
            with readable(path), open(path, "rb") as file:
                _index_lines(file, number, columns)
    else:
        with open(folder / _SPOOL, "wb") as file:
            files = _copy(attr, file, columns)
    if not columns["offsets"]:
        raise ConfigError(f"dataset {attr.name!r}: {attr.location} holds no rows")
    for name, values in columns.items():
        np.save(folder / f"{name}.npy", np.frombuffer(values, dtype=_COLUMNS[name]))
    write_json(folder / _FILES, files)


def _index_lines(file: IO[bytes], number: int, columns: dict[str, array]) -> None:
    offset = 0
    for line, raw in enumerate(file, start=1):
        if not _is_blank(raw):
            columns["offsets"].append(offset)
            columns["lengths"].append(len(raw))
            columns["numbers"].append(line)
            columns["files"].append(number)
        offset += len(raw)


def _is_blank(raw: bytes) -> bool:
    """Blank as text: the spaces of other scripts and a byte-order mark count as blank too."""
    stripped = raw.strip()
    return not stripped or (len(stripped) < 64 and not raw.decode("utf-8", "ignore").strip().strip("\ufeff"))


def _copy(attr: DatasetAttr, file: IO[bytes], columns: dict[str, array]) -> list[list[str]]:
    """Write rows as JSON lines; returns ``[name, data file, unit]`` for each file they came from."""
    files: dict[str, int] = {}
    units: list[str] = []
    offset = 0
    for place, row in read_rows(attr):
        try:
            line = json.dumps(row, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"
        except TypeError as error:
            raise ConfigError(f"{place}: cannot be streamed: {error}") from None
        if place.file not in files:
            files[place.file] = len(files)
            units.append(place.unit)
        columns["offsets"].append(offset)
        columns["lengths"].append(len(line))
        columns["numbers"].append(place.number)
        columns["files"].append(files[place.file])
        offset += file.write(line)
    return [[name, _SPOOL, unit] for name, unit in zip(files, units, strict=True)]


class RowIndex:
    """Rows of one set by number; may be used by several threads, and goes to other processes as its folder's name.

    Args:
        folder: That :func:`write_index` filled.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._columns = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in _COLUMNS}
        self._files: list[list[str]] = json.loads((folder / _FILES).read_text("utf-8"))
        self._open: dict[str, IO[bytes]] = {}

    def __len__(self) -> int:
        return len(self._columns["offsets"])

    def __reduce__(self) -> Any:
        return RowIndex, (self.folder,)

    def read(self, numbers: Sequence[int]) -> Iterator[NumberedRow]:
        """Read rows.

        Raises:
            ConfigError: A row is broken; the message names its file and line.
        """
        for number in numbers:
            name, data, unit = self._files[self._columns["files"][number]]
            place = Place(name, unit, int(self._columns["numbers"][number]))
            # A read at a place leaves the file's own position alone, which forked processes share.
            raw = os.pread(
                self._handle(data), int(self._columns["lengths"][number]), int(self._columns["offsets"][number])
            )
            row = parse_line(raw, place, is_json=data == _SPOOL or not name.lower().endswith(".txt"))
            if isinstance(row, ConfigError):
                raise row
            yield place, row

    def _handle(self, data: str) -> int:
        if data not in self._open:
            try:
                self._open[data] = open(self.folder / data, "rb")  # noqa: SIM115 (kept for the next rows)
            except OSError as error:
                raise ConfigError(f"{data}: cannot be read: {error.strerror}") from None
        return self._open[data].fileno()
