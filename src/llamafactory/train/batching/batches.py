# SPDX-License-Identifier: Apache-2.0
"""Which rows make up which micro-batch: a pure function of the seed, the epoch and the step, the same on all ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from ...data.streaming.rows import StreamRows
from ...extras.parents import end_with_parent, leave_group


def largest_batch(rows: Any, batch_size: int) -> int:
    """Return how many tokens, padding included, a micro-batch holds at most; of rows yet to be encoded their limit."""
    if isinstance(rows, StreamRows):
        return batch_size * rows.most_tokens
    import pyarrow.compute as pc

    return batch_size * pc.max(pc.list_value_length(rows.data.column("input_ids"))).as_py()


class Rows(Dataset):
    """Dataset rows that know their index; index ``~i`` is row ``i`` with nothing to train, to fill a short batch."""

    def __init__(self, rows: Any) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = dict(self.rows[index if index >= 0 else ~index])
        if index < 0:
            row["labels"] = [-100] * len(row["labels"])
        return {**row, "index": index}


class MicroBatches(Sampler[list[int]]):
    """Batches of one rank, so dealt that each optimizer step sees the same rows however it is cut.

    The rows of a step are consecutive in the epoch's order; micro-step ``k`` takes the next ``batch * ranks`` of them
    and rank ``r`` the ``r``-th part. No row is seen twice: at the end of an epoch a rank without rows gets a filler
    that trains nothing, so that all ranks still take part in the collectives.

    Args:
        size: Rows in the dataset.
        batch: Rows per rank and micro-batch.
        rank: This process.
        ranks: Processes.
        seed: Seed of the order; None keeps the stored order.
        lengths: Tokens of each row; given, rows of like length are put together.
        drop_last: Leave out a last micro-step that is not full.
    """

    def __init__(
        self,
        size: int,
        batch: int,
        rank: int = 0,
        ranks: int = 1,
        seed: int | None = None,
        lengths: Sequence[int] | None = None,
        drop_last: bool = False,
    ) -> None:
        self.size, self.batch, self.rank, self.ranks = size, batch, rank, ranks
        self.seed, self.lengths, self.drop_last = seed, lengths, drop_last
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iteration follows."""
        self.epoch = epoch

    def __len__(self) -> int:
        whole = self.batch * self.ranks
        return self.size // whole if self.drop_last else -(-self.size // whole)

    def __iter__(self) -> Iterator[list[int]]:
        order, whole = self._order(), self.batch * self.ranks
        for step in range(len(self)):
            rows = order[step * whole : (step + 1) * whole]
            yield rows[self.rank * self.batch : (self.rank + 1) * self.batch] or [~rows[0]]

    def _order(self) -> list[int]:
        if self.seed is None:
            return list(range(self.size))
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        order: list[int] = torch.randperm(self.size, generator=generator).tolist()
        if self.lengths is not None:
            lengths, span = self.lengths, 50 * self.batch * self.ranks
            spans = [order[start : start + span] for start in range(0, self.size, span)]
            order = [row for rows in spans for row in sorted(rows, key=lambda row: -lengths[row])]
        return order


class Batches(DataLoader):
    """A DataLoader over :class:`MicroBatches` that draws nothing from the global random state.

    A batch is what the collator makes plus ``rows``, the indices of its rows (fillers left out).
    """

    def __init__(
        self, rows: Any, sampler: MicroBatches, collator: Callable[..., dict[str, Any]], **options: Any
    ) -> None:
        super().__init__(
            Rows(rows),
            batch_sampler=sampler,
            collate_fn=Collate(collator),
            generator=torch.Generator().manual_seed(0),
            worker_init_fn=_watched,
            **options,
        )
        self.micro_batches = sampler

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iteration follows."""
        self.micro_batches.set_epoch(epoch)


def _watched(worker: int) -> None:
    end_with_parent()
    leave_group()


class Collate:
    """A class, not a closure, so that loading processes can be spawned."""

    def __init__(self, collator: Callable[..., dict[str, Any]]) -> None:
        self.collator = collator

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the collator's batch, with ``rows`` and, if the rows have them, ``channels`` [S] of its sequences."""
        indices = [row.pop("index") for row in rows]
        channels = [number for row in rows for number in row.pop("channels", ())]
        batch = {**self.collator(rows), "rows": [index for index in indices if index >= 0]}
        return {**batch, "channels": torch.tensor(channels)} if channels else batch
