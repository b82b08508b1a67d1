# SPDX-License-Identifier: Apache-2.0
"""One data set opened: its layout resolved from the first rows, then rows as a stream, and rows as samples."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import chain, islice
from typing import Any

from ...extras.errors import ConfigError
from ...extras.logging import get_logger
from ...plugins import resolve
from ..messages import Origin, Sample
from .dataset_info import DatasetAttr
from .files import first_rows, list_files, read_rows, scan_rows
from .opened import NumberedRow, Row
from .sniff import Rows, describe, plain_name, sniff

logger = get_logger(__name__)
SNIFFED_ROWS = 20


def open_set(attr: DatasetAttr, max_samples: int | None, seed: int) -> tuple[DatasetAttr, Iterator[NumberedRow]]:
    """Open a data set.

    Args:
        attr: The set; ``formatting="auto"`` is replaced by what the first rows look like.
        max_samples: Take at most this many rows.
        seed: Of the choice that ``num_samples`` makes.

    Returns:
        The set with its layout, and its rows.

    Raises:
        ConfigError: No layout fits, or a column that the set's entry names is missing.
    """
    rows: Iterator[NumberedRow] = iter(read_rows(attr))
    if attr.num_samples is not None:
        rows = iter(_choose(list(rows), attr.num_samples, seed))
    rows = islice(rows, max_samples)
    first = list(islice(rows, SNIFFED_ROWS))
    return resolve_layout(attr, first), chain(first, rows)


def resolve_layout(attr: DatasetAttr, first: list[NumberedRow]) -> DatasetAttr:
    """Read the layout off the first rows if no entry says it, and check the columns that the entry names."""
    if attr.formatting == "auto":
        attr = _sniffed(attr, [row for _, row in first])
        for one in attr.by_file.values() or [attr]:
            logger.info_once(describe(one))
    # Columns that dataset_info.json names must occur in some row; the defaults need not.
    rows = _rows_with(attr, [row for _, row in first], attr.listed, nulls=True)
    present = {column for row in rows for column in row}
    missing = sorted(attr.listed - present)
    if missing:
        found = ", ".join(map(repr, sorted(present)))
        raise ConfigError(f"{first[0][0]}: missing column {missing[0]!r} (named in dataset_info.json); found {found}")
    return attr


def _rows_with(attr: DatasetAttr, first: Rows, wanted: Iterable[str], nulls: bool = False) -> Rows:
    """The first rows, and those further on that are the first to hold one of some columns; ``nulls``: or a null."""

    def held(row: Mapping[str, Any]) -> set[str]:
        return {plain_name(column) for column, value in row.items() if nulls or value is not None}

    rows = list(first)
    missing = {plain_name(name) for name in wanted}.difference(*map(held, rows))
    if missing:
        for _, row in scan_rows(attr):
            if not isinstance(row, ConfigError) and missing & held(row):
                rows.append(row)
                missing -= held(row)
            if not missing:
                break
    return rows


def _sniffed(attr: DatasetAttr, first: Rows) -> DatasetAttr:
    """The layout by the rows; in a folder each file may have its own."""
    asked = [column for _, column in attr.asked]
    paths = list_files(attr) if attr.place in ("file", "cloud") else []
    if len(paths) < 2:
        return sniff(attr, _rows_with(attr, first, asked))
    by_file = {}
    for path in paths:
        if rows := first_rows(path, SNIFFED_ROWS):
            one = replace(attr, location=path)
            by_file[path] = sniff(one, _rows_with(one, rows, asked))
    layouts = list(by_file.values())
    if all(replace(one, location=attr.location) == replace(layouts[0], location=attr.location) for one in layouts):
        return replace(layouts[0], location=attr.location)
    return replace(layouts[0], location=attr.location, by_file=by_file)


def to_samples(
    rows: Iterable[NumberedRow], attr: DatasetAttr, look: Callable[[Row, DatasetAttr], None] | None = None
) -> Iterator[Sample]:
    """Convert rows; an error names file and line. Each row and its layout is shown to ``look``."""
    for place, row in rows:
        layout = attr.by_file.get(place.file, attr)
        try:
            sample: Sample = resolve("formats", layout.formatting)(row, layout)
        except ConfigError as error:
            raise ConfigError(f"{place}: {error}") from None
        if look is not None:
            look(row, layout)
        yield replace(sample, origin=Origin(attr.name, place.file, place.number, place.unit), row=row)


def _choose(rows: list[NumberedRow], number: int, seed: int) -> list[NumberedRow]:
    """Take ``number`` rows at random: each at most once, or as evenly as possible when there are fewer rows."""
    rng = random.Random(seed)
    times, rest = divmod(number, len(rows))
    return rows * times + rng.sample(rows, rest)
