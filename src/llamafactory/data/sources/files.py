# SPDX-License-Identifier: Apache-2.0
"""Rows out of files (json, jsonl, csv, tsv, xlsx, parquet, arrow, txt), read as a stream; errors name file and line."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from ...extras.errors import ConfigError, first_line
from ...extras.files import name_of
from ...extras.logging import get_logger
from ...extras.surrogates import NO_TEXT, lone_surrogate
from .arrow_rows import rows_of
from .cloud import list_cloud
from .dataset_info import DatasetAttr
from .hubs import open_hub
from .opened import FoundRow, NumberedRow, Place, Row, decode, lines, not_utf8, open_bytes, readable
from .tables import read_csv, read_excel

logger = get_logger(__name__)
_BATCH = 1000


def read_rows(attr: DatasetAttr) -> Iterator[NumberedRow]:
    """Read every row of a data set in file order.

    Args:
        attr: Where the set lies.

    Yields:
        ``(place, row)``; the place names file and line (or row number).

    Raises:
        ConfigError: A file is missing, empty, of an unknown kind, or broken at a line that the message names.
    """
    for place, row in scan_rows(attr):
        if isinstance(row, ConfigError):
            raise row
        yield place, row


def scan_rows(attr: DatasetAttr) -> Iterator[FoundRow]:
    """Read what can be read: a broken row is given as its error, and so is a file that cannot be read on.

    Raises:
        ConfigError: There is no file, or the hub does not answer.
    """
    if attr.place in ("hf", "ms", "om"):
        for number, hub_row in enumerate(open_hub(attr), start=1):
            yield Place(f"{attr.location} ({attr.split})", "row", number), hub_row
        return
    empty = True
    for path in list_files(attr):
        try:
            with readable(path):
                for found in READERS[_kind(path)](path):
                    empty = False
                    yield found
        except ConfigError as error:
            empty = False
            yield Place(path, "line", 0), error
    if empty:
        raise ConfigError(f"dataset {attr.name!r}: {attr.location} holds no rows")


def first_rows(path: str, number: int) -> list[Row]:
    """The first rows of a file that are not broken."""
    found = islice(READERS[_kind(path)](path), number)
    return [row for _, row in found if not isinstance(row, ConfigError)]


def list_files(attr: DatasetAttr) -> list[str]:
    """Return the files a set is made of: the file itself, or the data files of a folder by name."""
    if attr.place == "cloud":
        return list_cloud(attr.location, _is_data)
    if os.path.isdir(attr.location):
        names = sorted(name for name in os.listdir(attr.location) if _is_data(name))
        if not names:
            raise ConfigError(f"dataset {attr.name!r}: no data file in {attr.location}; expected {', '.join(READERS)}")
        return [os.path.join(attr.location, name) for name in names]
    if not os.path.isfile(attr.location):
        raise ConfigError(f"dataset {attr.name!r}: {attr.location} does not exist")
    return [attr.location]


def _is_data(name: str) -> bool:
    return _suffix(name) in READERS and name != "dataset_info.json"


def _suffix(path: str) -> str:
    return os.path.splitext(path.removesuffix(".gz").removesuffix(".zst"))[1].lstrip(".").lower()


def _kind(path: str) -> str:
    kind = _suffix(path)
    if kind not in READERS:
        raise ConfigError(f"{path}: unknown kind of file {kind!r}; expected {', '.join(READERS)}")
    return kind


def parse_line(raw: bytes, place: Place, is_json: bool) -> Row | ConfigError:
    """Return the row that stands in one line, or what is wrong with it."""
    line = decode(raw, place)
    if isinstance(line, ConfigError):
        return line
    return _parse_json(line, place) if is_json else {"text": line}


def is_one_row_a_line(path: str) -> bool:
    """Whether a local file can be cut at its line breaks."""
    return _suffix(path) == os.path.splitext(path)[1].lstrip(".").lower() and (
        _kind(path) in ("jsonl", "txt") or (_kind(path) == "json" and _one_object_a_line(path))
    )


def _parse_json(line: str, place: Place) -> Row | ConfigError:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        return ConfigError(f"{place}: bad JSON: {error.msg} at column {error.colno}")
    except RecursionError:
        return ConfigError(f"{place}: bad JSON: nested too deep")
    return _checked(row, place, line)


def _read_jsonl(path: str) -> Iterator[FoundRow]:
    for number, line in lines(path):
        place = Place(path, "line", number)
        yield place, line if isinstance(line, ConfigError) else _parse_json(line, place)


def _read_json(path: str) -> Iterator[FoundRow]:
    """A list of objects, an object that holds such a list, or one object a line."""
    if _one_object_a_line(path):
        yield from _read_jsonl(path)
        return
    with open_bytes(path) as file:
        raw = file.read()
    try:
        text = raw.decode("utf-8-sig")
        found = json.loads(text)
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        start = raw.rfind(b"\n", 0, error.start) + 1
        rest = raw[start:].split(b"\n", 1)[0]
        raise not_utf8(rest, error.start - start, f"{path} line {line}", path) from None
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path} line {error.lineno}: bad JSON: {error.msg} at column {error.colno}") from None
    except RecursionError:
        raise ConfigError(f"{path}: bad JSON: nested too deep") from None
    rows = _all_rows(found, path)
    suspect = text if lone_surrogate(text, rows) else ""
    for number, row in enumerate(rows, start=1):
        place = Place(path, "row", number)
        yield place, _checked(row, place, suspect)


def _all_rows(found: Any, path: str) -> list[Any]:
    """The rows of a JSON file: the list that it is, or the only list of objects that it holds under a key."""
    if isinstance(found, list):
        return found
    expected = "expected a list of objects, an object with that list under one key, or one object a line"
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: the top level is {name_of(found)}, {expected}")
    keys = _row_keys(found)
    if len(keys) != 1:
        many = f"{', '.join(map(repr, keys))} all hold rows" if keys else "the top level is an object"
        raise ConfigError(f"{path}: {many}, {expected}")
    logger.info_once("%s: the rows stand under the key %r", path, keys[0])
    rows: list[Any] = found[keys[0]]
    return rows


def _row_keys(found: dict[str, Any]) -> list[str]:
    """Keys that hold rows: lists of objects that are no turns of a conversation."""
    return [
        key
        for key, value in found.items()
        if isinstance(value, list)
        and value
        and all(isinstance(row, dict) for row in value)
        and not {"role", "from"} & value[0].keys()
    ]


def _one_object_a_line(path: str) -> bool:
    first, second = ([line for _, line in islice(lines(path), 2)] + [None, None])[:2]
    if first is None:
        raise ConfigError(f"{path}: the file is empty")
    if isinstance(first, ConfigError):
        raise first
    if not first.lstrip().startswith("{"):
        return False
    try:
        found = json.loads(first)
    except RecursionError:
        return True
    except json.JSONDecodeError:
        # Either an object over several lines or a broken first line: the second line tells.
        return isinstance(second, str) and second.startswith("{")
    return second is not None or len(_row_keys(found)) != 1


def _read_text(path: str) -> Iterator[FoundRow]:
    for number, line in lines(path):
        yield Place(path, "line", number), line if isinstance(line, ConfigError) else {"text": line}


def _read_parquet(path: str) -> Iterator[FoundRow]:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    with open_bytes(path) as file:
        try:
            yield from _rows_of_batches(path, parquet.ParquetFile(file).iter_batches(_BATCH))
        except (pa.ArrowInvalid, OSError) as error:
            raise ConfigError(f"{path}: not a readable parquet file: {first_line(error)}") from None


def _read_arrow(path: str) -> Iterator[FoundRow]:
    """An Arrow IPC stream (what ``datasets`` writes) or an Arrow IPC file (Feather)."""
    import pyarrow as pa

    with open_bytes(path) as file:
        try:
            if file.read(6) == b"ARROW1":
                file.seek(0)
                reader = pa.ipc.open_file(file)
                batches = (reader.get_batch(index) for index in range(reader.num_record_batches))
                yield from _rows_of_batches(path, batches)
            else:
                file.seek(0)
                yield from _rows_of_batches(path, pa.ipc.open_stream(file))
        except (pa.ArrowInvalid, OSError) as error:
            raise ConfigError(f"{path}: not a readable arrow file: {first_line(error)}") from None


def _rows_of_batches(path: str, batches: Any) -> Iterator[FoundRow]:
    number = 0
    for batch in batches:
        try:
            for row in rows_of(batch):
                number += 1
                yield Place(path, "row", number), row
        except ConfigError as error:
            raise ConfigError(f"{path} row {number + 1}: {error}") from None


def _checked(row: Any, place: Place, text: str) -> Row | ConfigError:
    """The row, if it is one; ``text`` is what it was read from."""
    if not isinstance(row, dict):
        return ConfigError(f"{place}: is {name_of(row)}, expected an object with named fields")
    if half := lone_surrogate(text, row):
        return ConfigError(f"{place}: {half} {NO_TEXT}")
    return row


READERS: dict[str, Callable[[str], Iterator[FoundRow]]] = {
    "json": _read_json,
    "jsonl": _read_jsonl,
    "csv": read_csv,
    "tsv": read_csv,
    "xlsx": read_excel,
    "parquet": _read_parquet,
    "arrow": _read_arrow,
    "txt": _read_text,
}
