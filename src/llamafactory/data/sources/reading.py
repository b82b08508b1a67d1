# SPDX-License-Identifier: Apache-2.0
"""One data set opened: its layout resolved from the first rows, then rows as a stream, and rows as samples."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain, islice

from ...extras.errors import ConfigError
from ...extras.logging import get_logger
from ...plugins import resolve
from ..messages import Origin, Sample
from .dataset_info import DatasetAttr
from .files import read_rows
from .opened import NumberedRow
from .sniff import describe, sniff

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
        attr = sniff(attr, [row for _, row in first])
        logger.info(describe(attr))
    # Columns that dataset_info.json names must occur in the first rows; the defaults need not.
    present = {column for _, row in first for column in row}
    missing = sorted(attr.listed - present)
    if missing:
        found = ", ".join(map(repr, sorted(present)))
        raise ConfigError(f"{first[0][0]}: missing column {missing[0]!r} (named in dataset_info.json); found {found}")
    return attr


def to_samples(rows: Iterable[NumberedRow], attr: DatasetAttr) -> Iterator[Sample]:
    """Convert rows; an error names file and line."""
    convert = resolve("formats", attr.formatting)
    for place, row in rows:
        try:
            sample: Sample = convert(row, attr)
        except ConfigError as error:
            raise ConfigError(f"{place}: {error}") from None
        yield replace(sample, origin=Origin(attr.name, place.file, place.number), row=row)


def _choose(rows: list[NumberedRow], number: int, seed: int) -> list[NumberedRow]:
    """Take ``number`` rows at random: each at most once, or as evenly as possible when there are fewer rows."""
    rng = random.Random(seed)
    times, rest = divmod(number, len(rows))
    return rows * times + rng.sample(rows, rest)
