# SPDX-License-Identifier: Apache-2.0
"""Training rows that are encoded when they are needed: order, reading, encoding and packing of one block after another.

The order of an epoch is a function of seed and epoch alone. Rank ``r`` of ``R`` takes every ``R``-th row of it, from
the ``r``-th on, in blocks; any block can be made without those before it, so a resumed run starts at the block it
needs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from ...extras.errors import ConfigError
from ...extras.logging import get_logger
from ..formats.unread import Unread
from ..prepare.arrow_file import column_types
from ..prepare.assembly import feature_columns, join_groups, mixed_order
from ..prepare.packing import pack
from ..prepare.report import say_unread
from ..prepare.shards import Encoder
from ..processor import Encoded, Tally
from ..sources.dataset_info import DatasetAttr
from ..sources.reading import to_samples
from ..sources.row_index import RowIndex

if TYPE_CHECKING:
    import pyarrow as pa

    from ..messages import Sample

logger = get_logger(__name__)

BLOCK_ROWS = 1000
PACKED_BLOCK_ROWS = 4000  # more rows fit each other better
_NEIGHBOURS = 64  # rows read together from a file


@dataclass(frozen=True)
class StreamSet:
    """One set.

    Attributes:
        attr: With its layout resolved.
        rows: All raw rows of the set.
        chosen: Numbers of those to train on, in stored order.
    """

    attr: DatasetAttr
    rows: RowIndex
    chosen: np.ndarray


@dataclass(frozen=True)
class Block:
    """Features of neighbouring rows of an epoch's order.

    Attributes:
        table: Arrow table; the column ``rows`` numbers the raw rows that a row was made of, over all sets.
        tally: What became of them.
    """

    table: pa.Table
    tally: Tally


@dataclass(frozen=True)
class StreamRows:
    """The training data of a streaming run; its length is the number of raw rows of one epoch.

    Attributes:
        sets: In the order of ``dataset``.
        encoder: Samples to features.
        strategy: A ``mix_strategy``.
        shares: Of the sets, or None.
        buffer: Rows shuffled among each other; what lies further apart in a file is mixed by runs of neighbours.
        channels: Names of the sets if there are several.
    """

    sets: list[StreamSet]
    encoder: Encoder
    strategy: str
    shares: list[float] | None
    buffer: int
    channels: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.order(0, None))

    @property
    def packs(self) -> bool:
        """Whether several samples share a row."""
        return bool(self.encoder.args.packing)

    @property
    def sequences(self) -> int:
        """Isolated sequences of a row that is not packed."""
        return 2 if self.encoder.processor.name in ("pairwise", "feedback") else 1

    @property
    def most_tokens(self) -> int:
        """Tokens that a row may hold."""
        return self.encoder.args.cutoff_len * self.sequences

    def order(self, epoch: int, seed: int | None) -> np.ndarray:
        """Return the rows of an epoch in order, numbered over all sets. int64 [rows].

        Args:
            epoch: From 0.
            seed: Of shuffling and mixing; None keeps the stored order and one mix.
        """
        draws = None if seed is None else np.random.default_rng([seed, epoch])
        joined = self.strategy == "concat" or len(self.sets) == 1
        parts = []
        for one in self.sets:
            times = [one.chosen] * one.attr.repeat
            parts.append(np.concatenate(times if draws is None or joined else [self._mixed(t, draws) for t in times]))
        sizes = [len(one.rows) for one in self.sets]
        order = mixed_order(parts, sizes, self.strategy, self.shares, 0 if seed is None else seed + epoch)
        return self._mixed(order, draws) if draws is not None and joined else order

    def _mixed(self, rows: np.ndarray, draws: np.random.Generator) -> np.ndarray:
        """Shuffle runs of neighbours, then the rows of each ``buffer``: near rows are read together, far ones mix."""
        runs = draws.permutation(-(-len(rows) // _NEIGHBOURS))
        places = (runs[:, None] * _NEIGHBOURS + np.arange(_NEIGHBOURS)).ravel()
        places = places[places < len(rows)]
        for start in range(0, len(places), max(1, self.buffer)):
            draws.shuffle(places[start : start + self.buffer])
        return rows[places]

    def blocks(self, order: np.ndarray, rank: int, ranks: int) -> list[np.ndarray]:
        """Return one rank's share of an epoch, cut into blocks of about the same size."""
        share = order[rank::ranks]
        return np.array_split(share, max(1, math.ceil(len(share) / self.block_rows)))

    @property
    def block_rows(self) -> int:
        """Raw rows that are encoded, and packed, together at most."""
        return PACKED_BLOCK_ROWS if self.packs else BLOCK_ROWS

    def rate(self, seed: int | None) -> float:
        """Return how many feature rows a raw row becomes, measured on the first block of the first epoch.

        Raises:
            ConfigError: No row of that block is left.
        """
        block = self.encode(self.order(0, seed)[: self.block_rows])
        if not len(block.table):
            tally = block.tally
            why = f"{tally.unanswered} no answer, {tally.untrained} no trained token, {tally.too_long} too long"
            raise ConfigError(f"dataset: none of the first {tally.rows} rows is left ({why})")
        self.say_unread(block.tally)
        if block.tally.rewritten and self.encoder.args.thoughts == "mask":
            logger.warning_once(
                f"streaming: {block.tally.rewritten:,} earlier answers of the first {block.tally.rows:,} rows are not "
                "trained, for the whole text shows them otherwise than when they are asked for (thoughts dropped); "
                "thoughts: split trains each in a row of its own"
            )
        return len(block.table) / block.tally.rows

    def say_unread(self, tally: Tally) -> None:
        """Name what the rows hold and nothing reads."""
        for one in self.sets:
            say_unread(one.attr.name, sorted(tally.unread.get(one.attr.name, ())), one.attr.is_spelled_out)

    def encode(self, numbers: np.ndarray) -> Block:
        """Read, encode and pack rows.

        Args:
            numbers: As :meth:`order` gives them.

        Raises:
            ConfigError: A row is broken; names file and line.
        """
        tables, tally = [], Tally()
        samples = iter(self._samples(numbers, tally))
        while some := list(islice(samples, self.encoder.args.preprocessing_batch_size)):
            encoded = self.encoder(some)
            tables.append(_as_table(encoded, some, numbers[tally.rows :]))
            tally.add(encoded.tally)
        return Block(self._joined(tables, tally.weighted > 0, tally.media > 0), tally)

    def _samples(self, numbers: np.ndarray, tally: Tally) -> list[Sample]:
        """Read rows set by set, and put them back in order; ``tally`` learns what is not read of them."""
        starts = np.concatenate([[0], np.cumsum([len(one.rows) for one in self.sets])])
        owner = np.searchsorted(starts, numbers, side="right") - 1
        samples: list[Any] = [None] * len(numbers)
        for which, one in enumerate(self.sets):
            places = np.flatnonzero(owner == which)
            wanted = (numbers[places] - starts[which]).tolist()
            unread = Unread(self.encoder.processor.unused)
            for place, sample in zip(places, to_samples(one.rows.read(wanted), one.attr, unread.look), strict=True):
                samples[place] = sample
            tally.unread.setdefault(one.attr.name, set()).update(unread.names)
        return samples

    def _joined(self, tables: list[pa.Table], weighted: bool, media: bool) -> pa.Table:
        import pyarrow as pa

        table = pa.concat_tables(tables)
        if not len(table):
            return table
        groups: Sequence[Sequence[int]] = [[number] for number in range(len(table))]
        if self.packs:
            lengths = table.column("input_ids").combine_chunks().value_lengths().to_numpy()
            groups = pack(lengths, self.encoder.args.cutoff_len)
            table = table.take([number for group in groups for number in group])
        columns = feature_columns(table, weighted, self.channels, media)
        return pa.table(join_groups(columns, [len(group) for group in groups]))


def _as_table(encoded: Encoded, samples: Sequence[Sample], numbers: np.ndarray) -> pa.Table:
    import pyarrow as pa

    columns = encoded.columns
    made_of = columns.pop("sample")
    columns["source"] = [samples[number].origin.source for number in made_of]
    columns["rows"] = [[int(numbers[number])] for number in made_of]
    types = {**column_types(), "rows": pa.list_(pa.int64())}
    return pa.table(columns, schema=pa.schema([(name, types[name]) for name in columns]))


def rows_of(table: pa.Table) -> Iterator[dict[str, Any]]:
    """Yield the rows of a block as plain values."""
    for start in range(0, len(table), _NEIGHBOURS):
        yield from table.slice(start, _NEIGHBOURS).to_pylist()
