# SPDX-License-Identifier: Apache-2.0
"""Rows that hold the very same tokens, trained the very same way."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from datasets import Dataset

_BATCH = 10_000


def find_duplicates(sets: Sequence[Dataset]) -> list[np.ndarray]:
    """Mark rows that equal an earlier one, in the same set or in one before it.

    Args:
        sets: Encoded sets.

    Returns:
        For each set a bool [rows].
    """
    seen: set[bytes] = set()
    return [_mark(rows, seen) for rows in sets]


def drop_marked(rows: Sequence[np.ndarray], marks: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Leave the marked rows out of each set's row numbers."""
    return [numbers[~marked[numbers]] for numbers, marked in zip(rows, marks, strict=True)]


def is_new(columns: Sequence[Any], seen: set[bytes]) -> bool:
    """Whether a row, given as its columns' bytes, is not among those seen; it is then added."""
    hasher = hashlib.blake2b(digest_size=16)
    for column in columns:
        hasher.update(len(column).to_bytes(8, "little"))
        hasher.update(column)
    key = hasher.digest()
    if key in seen:
        return False
    seen.add(key)
    return True


def _mark(rows: Dataset, seen: set[bytes]) -> np.ndarray:
    names = [name for name in ("input_ids", "labels", "weights", "reference", "rollout") if name in rows.column_names]
    arrow = rows.with_format("arrow")
    marks = np.zeros(len(rows), dtype=bool)
    for start in range(0, len(rows), _BATCH):
        table = arrow[start : start + _BATCH].combine_chunks()
        columns = [_cells(table.column(name)) for name in names]
        for number, cells in enumerate(zip(*columns, strict=True), start=start):
            marks[number] = not is_new(cells, seen)
    return marks


def _cells(column: Any) -> list[Any]:
    """The bytes of every cell; of token lists without making Python numbers of them."""
    import pyarrow as pa

    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if not pa.types.is_list(column.type):
        return [value.encode() for value in column.to_pylist()]
    values = column.flatten().to_numpy()
    ends = np.cumsum(column.value_lengths().fill_null(0).to_numpy())
    return [part.tobytes() for part in np.split(values, ends[:-1])]
