# SPDX-License-Identifier: Apache-2.0
"""Which prompts are completed at which step: a pure function of the step, the same on all ranks and after a resume."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..batching.batches import MicroBatches


@dataclass(frozen=True)
class Place:
    """Where an optimizer step stands in its rollout.

    Attributes:
        first: The step, from 0 over the whole run, at which the rollout is made.
        size: Optimizer steps that one pass over the rollout takes.
        number: Of the step, from 0 in all passes over the rollout.
    """

    first: int
    size: int
    number: int

    @property
    def batch(self) -> int:
        """Which of the rollout's batches this step trains on."""
        return self.number % self.size


class RolloutSchedule(MicroBatches):
    """Prompts times completions, cut into optimizer steps; an epoch ends with its last whole step.

    A slot is one completion that is to be written: the completions of one prompt stand side by side.

    Args:
        prompts: Rows in the dataset.
        completions: Of each prompt.
        batch: Completions per rank and micro-batch.
        accumulation: Micro-batches of an optimizer step.
        buffer: Optimizer steps that one rollout fills.
        passes: Over each rollout.
        rank: This process.
        ranks: Processes.
        seed: Of the order; None keeps the stored one.
    """

    def __init__(
        self,
        prompts: int,
        completions: int,
        batch: int,
        accumulation: int,
        buffer: int,
        passes: int,
        rank: int = 0,
        ranks: int = 1,
        seed: int | None = None,
    ) -> None:
        super().__init__(prompts, batch, rank, ranks, seed)
        self.completions, self.accumulation, self.buffer, self.passes = completions, accumulation, buffer, passes
        self.step_slots = batch * accumulation * ranks
        self.epoch_steps = prompts * completions // self.step_slots * passes

    def place(self, step: int) -> Place:
        """Return where ``step``, from 0 over the whole run, stands."""
        start = step - step % self.epoch_steps
        inside, whole = step - start, self.buffer * self.passes
        first = inside - inside % whole
        size = min(self.buffer, (self.epoch_steps - first) // self.passes)
        return Place(start + first, size, inside - first)

    def rollout(self, place: Place) -> list[list[list[int]]]:
        """Return this rank's slots of a rollout: [step][micro-batch][completion], numbered from 0 in the rollout."""
        whole, mine = self.batch * self.ranks, range(self.rank * self.batch, (self.rank + 1) * self.batch)
        return [
            [[step * self.step_slots + micro * whole + slot for slot in mine] for micro in range(self.accumulation)]
            for step in range(place.size)
        ]

    def rows(self, place: Place) -> list[tuple[int, int]]:
        """Return, for each slot of a rollout, its prompt's row and its number among the completions of that prompt."""
        self.set_epoch(place.first // self.epoch_steps)
        before = place.first % self.epoch_steps // self.passes * self.step_slots
        order, slots = self._order(), range(before, before + place.size * self.step_slots)
        return [(order[slot // self.completions], slot % self.completions) for slot in slots]

    def __len__(self) -> int:
        return self.epoch_steps * self.accumulation

    def __iter__(self) -> Iterator[list[int]]:
        start = self.epoch * self.epoch_steps
        for step in range(start, start + self.epoch_steps):
            place = self.place(step)
            rows = self.rows(place)
            for slots in self.rollout(place)[place.batch]:
                yield [rows[slot][0] for slot in slots]
