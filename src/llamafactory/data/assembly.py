# SPDX-License-Identifier: Apache-2.0
"""Encoded sets to one set: held-out rows, mix, packing; every row is copied once, in its final order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from ..extras.errors import ConfigError
from .arrow_file import ArrowFile
from .mixing import mix
from .packing import pack

if TYPE_CHECKING:
    from datasets import Dataset

_GROUPS = 1000  # rows written at once


def hold_out(
    sets: Sequence[np.ndarray], samples: Sequence[int], size: float, seed: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Choose rows for evaluation at random over all sets; the rows of one sample stay on one side.

    The choice is made among all samples read, also those that left no row, so that it is the same for every processor.

    Args:
        sets: For each set the number of each row's sample.
        samples: Number of samples read for each.
        size: Share of the samples below 1, or their number.
        seed: Of the choice.

    Returns:
        For each set the row numbers that stay for training, and those held out.

    Raises:
        ConfigError: One of the sides would be empty.
    """
    total = sum(samples)
    wanted = round(total * size) if size < 1 else int(size)
    if not 0 < wanted < total:
        raise ConfigError(
            f"val_size: {size} of {total} samples leaves nothing to {'evaluate' if wanted < 1 else 'train'} on"
        )
    chosen = np.zeros(total, dtype=bool)
    chosen[np.random.default_rng(seed).permutation(total)[:wanted]] = True
    sides = []
    for rows, out in zip(sets, np.split(chosen, np.cumsum(samples)[:-1]), strict=True):
        held = out[rows]
        sides.append((np.flatnonzero(~held), np.flatnonzero(held)))
    return sides


def mixed_order(rows: Sequence[np.ndarray], sizes: Sequence[int], strategy: str, weights: Any, seed: int) -> np.ndarray:
    """Order rows of several sets as row numbers of the sets joined end to end.

    Args:
        rows: Row numbers used of each set.
        sizes: Rows each set has in all.
        strategy: A ``mix_strategy``.
        weights: Of the sets, or None.
        seed: Of the draws.
    """
    source, position = mix([len(chosen) for chosen in rows], strategy, weights, seed)
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    order = np.empty(len(source), dtype=np.int64)
    for number, chosen in enumerate(rows):
        here = source == number
        order[here] = starts[number] + chosen[position[here]]
    return order


def write_rows(sets: Sequence[Dataset], order: np.ndarray, path: str, capacity: int | None, weighted: bool) -> Dataset:
    """Write chosen rows of sets joined end to end, packed if asked.

    Args:
        sets: Encoded sets, same columns.
        order: Row numbers over all sets.
        path: Arrow file to write.
        capacity: Tokens of a packed row; None = rows stay as they are.
        weighted: Whether any row has weights; rows without get ones, and without any the column is left out.
    """
    from datasets import Dataset, concatenate_datasets

    rows = concatenate_datasets(list(sets)).with_format("arrow")
    groups: Iterable[Sequence[int]] = ([index] for index in order.tolist())
    if capacity is not None:
        lengths = np.concatenate([row_lengths(rows_of_set) for rows_of_set in sets])[order]
        groups = (order[group].tolist() for group in pack(lengths, capacity))
    with ArrowFile(path) as file:
        iterator: Iterator[Sequence[int]] = iter(groups)
        while some := list(islice(iterator, _GROUPS)):
            table = rows[[index for group in some for index in group]]
            file.write(_join_groups(table, [len(group) for group in some], weighted))
    return Dataset.from_file(path)


def row_lengths(rows: Dataset) -> np.ndarray:
    """Tokens of each row."""
    import pyarrow.compute as pc

    return pc.list_value_length(rows.with_format("arrow")["input_ids"]).to_numpy()


def _join_groups(table: Any, group_sizes: list[int], weighted: bool) -> dict[str, Any]:
    """Join each group of neighbouring rows into one row: of the list columns only the offsets change."""
    import pyarrow as pa

    table = table.combine_chunks()
    ends = np.cumsum(group_sizes)
    borders = np.concatenate([[0], ends])
    columns: dict[str, Any] = {}
    for name in table.column_names:
        column = table.column(name).chunk(0)
        if name == "weights":
            if not weighted:
                continue
            lengths = table.column("input_ids").chunk(0).value_lengths().to_pylist()
            full = [row or [1.0] * length for row, length in zip(column.to_pylist(), lengths, strict=True)]
            column = pa.array(full, pa.list_(pa.float32()))
        if pa.types.is_list(column.type):
            starts = np.concatenate([[0], np.cumsum(column.value_lengths().to_numpy())])
            columns[name] = pa.ListArray.from_arrays(pa.array(starts[borders], pa.int32()), column.flatten())
        elif name == "source":
            names = column.to_pylist()
            columns[name] = ["+".join(dict.fromkeys(names[a:b])) for a, b in zip(borders[:-1], ends, strict=True)]
        elif pa.types.is_string(column.type):  # text beside the tokens; only rows that are not packed have it
            columns[name] = column
    return columns
