# SPDX-License-Identifier: Apache-2.0
"""Rows of tables: text with separators (csv, tsv) and the sheets of Excel; the first row names the columns."""

from __future__ import annotations

import csv
import io
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice
from typing import IO, Any
from zipfile import BadZipFile

from ...extras.errors import ConfigError, first_line
from ...extras.logging import get_logger
from .opened import FoundRow, Place, Row, not_utf8, open_bytes

logger = get_logger(__name__)

_SEPARATORS = {",": "','", ";": "';'", "\t": "tab", "|": "'|'"}
_LOOKED_AT = 20
_SAMPLE = 1 << 16


def read_csv(path: str) -> Iterator[FoundRow]:
    """Rows of a text table; its separator is read off its first rows."""
    csv.field_size_limit(2**31 - 1)  # one cell may hold a whole document
    separator = separator_of(path)
    with open_bytes(path) as file:
        reader = csv.reader(_text(file), strict=True, delimiter=separator)
        try:
            header = next(reader, None)
            if header is None:
                raise ConfigError(f"{path}: the file is empty")
            _check_header(header, f"{path} line 1")
            for cells in reader:
                if cells:
                    place = Place(path, "line", reader.line_num)
                    yield place, _row(header, cells, place)
        except csv.Error as error:
            raise ConfigError(f"{path} line {reader.line_num}: bad CSV: {error}") from None
        except UnicodeDecodeError as error:
            raise _not_utf8(path, error) from None


def separator_of(path: str) -> str:
    """What stands between the cells: the one by which the first rows have the most cells, and equally many.

    Raises:
        ConfigError: The file cannot be opened, or is not UTF-8 text.
    """
    if path.removesuffix(".gz").removesuffix(".zst").lower().endswith(".tsv"):
        return "\t"
    with open_bytes(path) as file:
        try:
            text = _text(file).read(_SAMPLE)
        except UnicodeDecodeError as error:
            raise _not_utf8(path, error) from None
    return max(_SEPARATORS, key=lambda separator: _agreement(text, separator))


def separator_name(path: str) -> str:
    """The separator in words, for files that have another one than most."""
    separator = separator_of(path)
    return "" if separator == "," else f"{_SEPARATORS[separator]}-separated"


def _agreement(text: str, separator: str) -> tuple[int, int]:
    """How many of the first rows have as many cells as the header, which has several; then how many those are."""
    sizes: list[int] = []
    with suppress(csv.Error):
        sizes += [len(cells) for cells in islice(csv.reader(io.StringIO(text), delimiter=separator), _LOOKED_AT)]
    return (sizes.count(sizes[0]), sizes[0]) if sizes and sizes[0] > 1 else (0, 0)


def _text(file: IO[bytes]) -> io.TextIOWrapper:
    return io.TextIOWrapper(file, encoding="utf-8-sig", newline="")


def _not_utf8(path: str, error: UnicodeDecodeError) -> ConfigError:
    """The error of the first line that is not UTF-8: what a decoder of blocks says names no line."""
    with open_bytes(path) as file:
        for number, raw in enumerate(file, start=1):
            try:
                raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as found:
                return not_utf8(raw, found.start, f"{path} line {number}", path)
    return ConfigError(f"{path}: not UTF-8 text ({error.reason})")


def read_excel(path: str) -> Iterator[FoundRow]:
    """Rows of the first sheet that holds any, as text like those of a csv; its first row names the columns."""
    try:
        import openpyxl
        from openpyxl.utils.exceptions import InvalidFileException
    except ImportError:
        raise ConfigError(f"{path}: Excel files need a package: pip install openpyxl (or save it as csv)") from None
    with open_bytes(path) as file:
        try:
            book = openpyxl.load_workbook(file, read_only=True, data_only=True)
            sheets = [(sheet.title, _cells(sheet)) for sheet in book.worksheets if sheet.sheet_state == "visible"]
            yield from _rows_of_sheets(path, sheets)
        except (
            InvalidFileException,
            BadZipFile,
            zlib.error,
            LookupError,
            ValueError,
            OSError,
            EOFError,
            SyntaxError,
        ) as error:
            if isinstance(error, ConfigError):
                raise
            raise ConfigError(f"{path}: not a readable Excel file: {first_line(error)}") from None


def _rows_of_sheets(path: str, sheets: list[tuple[str, Iterator[tuple[int, list[str]]]]]) -> Iterator[FoundRow]:
    for title, cells in sheets:
        first = next(cells, None)
        if first is None:
            continue
        number, header = first
        if len(sheets) > 1:
            logger.info_once("%s: rows are read from the sheet %r; it has %d more", path, title, len(sheets) - 1)
        _check_header(header, f"{path}, sheet {title!r}, row {number}")
        for number, values in cells:
            place = Place(path, "row", number)
            yield place, _row(header, values + [""] * (len(header) - len(values)), place)
        return
    raise ConfigError(f"{path}: the file is empty")


def _cells(sheet: Any) -> Iterator[tuple[int, list[str]]]:
    """Numbered rows that are not blank, without blank cells at their end."""
    for number, values in enumerate(sheet.iter_rows(values_only=True), start=1):
        texts = [_cell_text(value) for value in values]
        while texts and not texts[-1].strip():
            texts.pop()
        if texts:
            yield number, texts


def _cell_text(value: Any) -> str:
    if value is None:
        return ""
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def _check_header(header: Sequence[str], where: str) -> None:
    if any(not name.strip() for name in header) or len(set(header)) != len(header):
        raise ConfigError(f"{where}: the header {list(header)} has an empty or repeated column name")


def _row(header: Sequence[str], cells: Sequence[str], place: Place) -> Row | ConfigError:
    if len(cells) != len(header):
        return ConfigError(f"{place}: {len(cells)} cells, the header has {len(header)} ({', '.join(header)})")
    return dict(zip(header, cells, strict=True))
