# SPDX-License-Identifier: Apache-2.0
"""Encoded sets to one set: held-out rows, mix, packing; every row is copied once, in its final order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from ...extras.errors import ConfigError
from ..sources.mixing import mix
from .arrow_file import ArrowFile
from .packing import pack

if TYPE_CHECKING:
    from datasets import Dataset

_ROWS, _GROUPS = 5000, 1000  # rows, packed rows written at once


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


def write_rows(
    sets: Sequence[Dataset],
    order: np.ndarray,
    path: str,
    capacity: int | None,
    weighted: bool,
    channels: Sequence[str] = (),
    media: bool = False,
) -> Dataset:
    """Write chosen rows of sets joined end to end, packed if asked.

    Args:
        sets: Encoded sets, same columns.
        order: Row numbers over all sets.
        path: Arrow file to write.
        capacity: Tokens of a packed row; None = rows stay as they are.
        weighted: Whether any row has weights; rows without get ones, and without any the column is left out.
        channels: Names of sets; given, the column ``channels`` numbers the set of each sequence among them.
        media: Whether any row has media; without any the column is left out.
    """
    from datasets import Dataset, concatenate_datasets

    rows = concatenate_datasets(list(sets)).with_format("arrow")
    with ArrowFile(path) as file:
        if capacity is None:
            for start in range(0, len(order), _ROWS):
                file.write(feature_columns(rows[_indices(order[start : start + _ROWS])], weighted, channels, media))
        else:
            lengths = np.concatenate([row_lengths(rows_of_set) for rows_of_set in sets])[order]
            groups: Iterator[Sequence[int]] = (order[group].tolist() for group in pack(lengths, capacity))
            while some := list(islice(groups, _GROUPS)):
                columns = feature_columns(rows[[index for group in some for index in group]], weighted, channels, media)
                file.write(join_groups(columns, [len(group) for group in some]))
    return Dataset.from_file(path)


def _indices(order: np.ndarray) -> slice | list[int]:
    """Row numbers, as a slice where they follow each other: that is read without looking up every row."""
    if (np.diff(order) == 1).all():
        return slice(int(order[0]), int(order[-1]) + 1)
    chosen: list[int] = order.tolist()
    return chosen


def row_lengths(rows: Dataset) -> np.ndarray:
    """Tokens of each row."""
    import pyarrow.compute as pc

    return pc.list_value_length(rows.with_format("arrow")["input_ids"]).to_numpy()


def feature_columns(table: Any, weighted: bool, channels: Sequence[str] = (), media: bool = False) -> dict[str, Any]:
    """The feature columns of an Arrow table, each one array; rows without weights get ones, if any row has some.

    Args:
        table: Of encoded rows.
        weighted: As for :func:`write_rows`.
        channels: As for :func:`write_rows`.
        media: As for :func:`write_rows`.
    """
    import pyarrow as pa

    left_out = {"sample", *([] if weighted else ["weights"]), *([] if media else ["media"])}
    names = [name for name in table.column_names if name not in left_out]
    columns = {name: table.column(name).combine_chunks() for name in names}
    if "weights" in columns:
        lengths = columns["input_ids"].value_lengths().to_pylist()
        full = [row or [1.0] * length for row, length in zip(columns["weights"].to_pylist(), lengths, strict=True)]
        columns["weights"] = pa.array(full, pa.list_(pa.float32()))
    if channels:
        number = {name: index for index, name in enumerate(channels)}
        sequences = columns["seq_lens"].value_lengths().to_numpy()
        values = np.repeat([number[name] for name in columns["source"].to_pylist()], sequences)
        starts = np.concatenate([[0], np.cumsum(sequences)])
        columns["channels"] = pa.ListArray.from_arrays(pa.array(starts, pa.int32()), pa.array(values, pa.int32()))
    return columns


def join_groups(columns: dict[str, Any], group_sizes: Sequence[int]) -> dict[str, Any]:
    """Join each group of neighbouring rows into one row: of the list columns only the offsets change.

    Args:
        columns: From :func:`feature_columns`.
        group_sizes: Rows of each group, in order.
    """
    import pyarrow as pa

    ends = np.cumsum(group_sizes)
    borders = np.concatenate([[0], ends])
    joined: dict[str, Any] = {}
    for name, column in columns.items():
        if pa.types.is_list(column.type):
            starts = np.concatenate([[0], np.cumsum(column.value_lengths().to_numpy())])
            joined[name] = pa.ListArray.from_arrays(pa.array(starts[borders], pa.int32()), column.flatten())
        else:
            names = column.to_pylist()
            joined[name] = ["+".join(dict.fromkeys(names[a:b])) for a, b in zip(borders[:-1], ends, strict=True)]
    return joined
