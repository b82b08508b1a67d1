# SPDX-License-Identifier: Apache-2.0
"""The rows of an optimizer step do not depend on how the step is cut."""

from __future__ import annotations

import os
from itertools import chain
from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st

from llamafactory.train.batching.batches import Batches, MicroBatches, largest_batch


def _steps(size: int, batch: int, ranks: int, accumulation: int, seed: int | None) -> list[list[int]]:
    """Rows of each optimizer step over all ranks, fillers left out."""
    per_rank = [list(MicroBatches(size, batch, rank, ranks, seed)) for rank in range(ranks)]
    assert len({len(batches) for batches in per_rank}) == 1, "ranks must take part in the same number of steps"
    rounds = [[row for rank in per_rank for row in rank[k] if row >= 0] for k in range(len(per_rank[0]))]
    return [list(chain.from_iterable(rounds[k : k + accumulation])) for k in range(0, len(rounds), accumulation)]


@given(st.integers(1, 70), st.sampled_from([(1, 8, 1), (8, 1, 1), (2, 2, 2), (4, 2, 1), (1, 2, 4)]), st.integers(0, 3))
def test_every_cut_of_a_step_has_the_same_rows(size: int, cut: tuple[int, int, int], seed: int) -> None:
    batch, ranks, accumulation = cut
    assert _steps(size, batch, ranks, accumulation, seed) == _steps(size, 8, 1, 1, seed)


@given(st.integers(1, 60), st.integers(1, 5), st.integers(1, 4))
def test_every_row_once_an_epoch(size: int, batch: int, ranks: int) -> None:
    rows = list(chain.from_iterable(_steps(size, batch, ranks, 1, seed=0)))
    assert sorted(rows) == list(range(size))


def test_epochs_differ_and_repeat() -> None:
    sampler = MicroBatches(40, 4, seed=7)
    first = list(sampler)
    sampler.set_epoch(1)
    second = list(sampler)
    sampler.set_epoch(0)
    assert first != second and list(sampler) == first


def test_lengths_bring_like_rows_together() -> None:
    lengths = torch.randint(1, 1000, (400,), generator=torch.Generator().manual_seed(0)).tolist()

    def spread(given_lengths: list[int] | None) -> float:
        batches = list(MicroBatches(400, 4, seed=0, lengths=given_lengths))
        assert sorted(list(chain.from_iterable(batches))) == list(range(400))
        return sum(max(lengths[i] for i in rows) - min(lengths[i] for i in rows) for rows in batches)

    assert spread(lengths) < 0.1 * spread(None)


def test_a_filler_trains_nothing_and_draws_nothing() -> None:
    rows = [{"input_ids": [1, 2], "labels": [-100, 2], "seq_lens": [2]} for _ in range(3)]
    seen: list[dict[str, Any]] = []

    def collator(batch: list[dict[str, Any]]) -> dict[str, Any]:
        seen.extend(batch)
        return {}

    before = torch.random.get_rng_state()
    batches = list(Batches(rows, MicroBatches(3, 2, rank=1, ranks=2, seed=None), collator))
    assert batches == [{"rows": [2]}] and seen[-1]["labels"] == [-100, 2]
    batches = list(Batches(rows, MicroBatches(3, 1, rank=1, ranks=2, seed=None), collator))
    assert [batch["rows"] for batch in batches] == [[1], []] and seen[-1]["labels"] == [-100, -100]
    assert torch.equal(before, torch.random.get_rng_state())


def test_the_largest_batch_is_that_of_the_longest_rows() -> None:
    from datasets import Dataset

    rows = Dataset.from_dict({"input_ids": [[1] * length for length in (3, 9, 1, 7)]})
    assert largest_batch(rows, 4) == 36
    assert largest_batch(rows.select([0, 1]), 2) == 18


def test_loading_processes_are_in_no_group_with_their_rank() -> None:
    """torchrun asks a rank to end by a signal to its whole group; the step that is then finished needs its batches."""
    rows: Any = [{"a": 1}, {"a": 2}]

    def collator(batch: list[dict[str, Any]]) -> dict[str, Any]:
        return {"group": os.getpgid(0), "process": os.getpid()}

    for batch in Batches(rows, MicroBatches(2, 1), collator, num_workers=1):
        assert batch["group"] == batch["process"] != os.getpid() and batch["group"] != os.getpgid(0)
