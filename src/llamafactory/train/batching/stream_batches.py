# SPDX-License-Identifier: Apache-2.0
"""Micro-batches of a streaming run, encoded in the background while the step before them is computed."""

from __future__ import annotations

import copy
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from ...data.processor import Tally
from ...data.streaming.rows import Block, StreamRows, rows_of
from ...extras.errors import ConfigError
from ...extras.parents import end_with_parent, leave_group
from .batches import Collate

_AHEAD = 2  # blocks that wait, encoded, where no loading processes are asked for


@dataclass(frozen=True)
class StreamPosition:
    """Where one rank goes on.

    Attributes:
        epoch: From 0.
        block: Of this rank's blocks of the epoch.
        row: Of the block's feature rows.
    """

    epoch: int = 0
    block: int = 0
    row: int = 0


class StreamBatches:
    """One rank's micro-batches of one epoch after another; where they end nobody knows before they were encoded.

    A batch is what the collator makes plus ``rows`` (numbers of its raw rows), ``position`` (what follows it)
    and ``progress`` (epochs done with it).

    Args:
        rows: The training data.
        collator: Rows -> batch.
        batch: Feature rows of a batch.
        rank: This process.
        ranks: Processes.
        seed: Of the order; None keeps the stored order.
        epochs: How many there are; the last one may be a part. None = as many as are asked for.
        workers: Processes that encode; 0 = one thread.
        ahead: Blocks that each of these processes encodes in advance.
        context: How these processes start: fork, spawn, forkserver; None = the system's usual way.
    """

    def __init__(
        self,
        rows: StreamRows,
        collator: Callable[..., dict[str, Any]],
        batch: int,
        rank: int,
        ranks: int,
        seed: int | None,
        epochs: float | None,
        workers: int,
        ahead: int | None,
        context: str | None = None,
    ) -> None:
        self.rows, self.collate, self.batch = rows, Collate(collator), batch
        self.rank, self.ranks, self.seed, self.epochs = rank, ranks, seed, epochs
        self.workers, self.ahead, self.context = workers, ahead, context
        self.start = StreamPosition()
        self.tally = Tally()
        # The encoder in use by a thread must not be the one that evaluation uses.
        self._encode = _Encode(rows if workers else replace(rows, encoder=copy.deepcopy(rows.encoder)))

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of an epoch, unless that is where :attr:`start` already points into."""
        if self.start.epoch != epoch:
            self.start = StreamPosition(epoch)

    def order(self, epoch: int) -> np.ndarray:
        """Return the raw rows of an epoch over all ranks."""
        order = self.rows.order(epoch, self.seed)
        return order[: round(len(order) * self._part(epoch))]

    def _part(self, epoch: int) -> float:
        """How much of an epoch there is: less than 1 for the last one of, say, 1.5."""
        return 1.0 if self.epochs is None else min(1.0, self.epochs - epoch)

    def __iter__(self) -> Lookahead:
        return Lookahead(self._batches(self.start))

    def _batches(self, start: StreamPosition) -> Iterator[dict[str, Any]]:
        blocks = self.rows.blocks(self.order(start.epoch), self.rank, self.ranks)
        self.tally = Tally()
        waiting: list[dict[str, Any]] = []
        part, after, done = self._part(start.epoch), start, 0.0
        for number, block in enumerate(self._encoded(blocks[start.block :]), start=start.block):
            self.tally.add(block.tally)
            first = start.row if number == start.block else 0
            rows = len(block.table)
            for place, row in enumerate(islice(rows_of(block.table), first, None), start=first + 1):
                waiting.append(row)
                after = StreamPosition(start.epoch, *((number, place) if place < rows else (number + 1, 0)))
                done = start.epoch + part * (number + place / rows) / len(blocks)
                if len(waiting) == self.batch:
                    yield {**self._collated(waiting), "position": after, "progress": done}
                    waiting = []
        if waiting:
            yield {**self._collated(waiting), "position": after, "progress": done}

    def _collated(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        made_of = [number for row in rows for number in row.pop("rows")]
        weighted = any(row.get("weights") for row in rows)
        for row in rows:
            row["index"] = 0
            weights = row.pop("weights", None)
            if weighted:
                row["weights"] = weights or [1.0] * len(row["input_ids"])
        return {**self.collate(rows), "rows": made_of}

    def filler(self) -> dict[str, Any]:
        """Return a batch that trains nothing, for a rank that has no row where another still has one."""
        sequences = self.rows.sequences
        row = {"input_ids": [0] * 2 * sequences, "labels": [-100] * 2 * sequences, "seq_lens": [2] * sequences}
        channels = {"channels": [0] * sequences} if self.rows.channels else {}
        return self.collate([{**row, **channels, "desirable": [0], "index": -1}])

    def _encoded(self, blocks: list[np.ndarray]) -> Iterator[Block]:
        for block in self._in_processes(blocks) if self.workers else self._in_thread(blocks):
            if isinstance(block, str):
                raise ConfigError(block)
            yield block

    def _in_processes(self, blocks: list[np.ndarray]) -> Iterator[Block | str]:
        loader = DataLoader(
            self._encode,
            batch_size=None,
            sampler=blocks,
            num_workers=self.workers,
            prefetch_factor=self.ahead,
            multiprocessing_context=self.context,
            collate_fn=_same,
            worker_init_fn=_alone,
            generator=torch.Generator().manual_seed(0),  # so that nothing is drawn from the global random state
        )
        yield from loader

    def _in_thread(self, blocks: list[np.ndarray]) -> Iterator[Block | str]:
        rest = iter(blocks)
        pool = ThreadPoolExecutor(1, thread_name_prefix="encode")
        try:
            waiting = deque(pool.submit(self._encode.__getitem__, block) for block in islice(rest, _AHEAD))
            while waiting:
                yield waiting.popleft().result()
                waiting.extend(pool.submit(self._encode.__getitem__, block) for block in islice(rest, 1))
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


class Lookahead:
    """An iterator that knows whether there is more."""

    def __init__(self, items: Iterator[dict[str, Any]]) -> None:
        self._items = items
        self._next = next(items, None)

    @property
    def more(self) -> bool:
        """Whether another item follows."""
        return self._next is not None

    def __iter__(self) -> Lookahead:
        return self

    def __next__(self) -> dict[str, Any]:
        if self._next is None:
            raise StopIteration
        item, self._next = self._next, next(self._items, None)
        return item


class _Encode(Dataset):
    """Blocks by the numbers of their rows; an error of the user's comes as its text, for processes add a traceback."""

    def __init__(self, rows: StreamRows) -> None:
        self.rows = rows

    def __getitem__(self, numbers: np.ndarray) -> Block | str:
        try:
            return self.rows.encode(numbers)
        except ConfigError as error:
            return str(error)


def _same(item: Any) -> Any:
    return item


def _alone(worker: int) -> None:
    """The processes share the cores, so each tokenizer keeps to one."""
    end_with_parent()
    leave_group()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
