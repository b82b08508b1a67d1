# SPDX-License-Identifier: Apache-2.0
"""A streaming run inside transformers' loop: epochs that end when their rows do, on all ranks at the same step.

How many rows survive encoding, and how full packs are, is only known afterwards. So the number of steps is an estimate
(it shapes the schedule and the progress shown), and the data decides when an epoch, and the run, is over.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from torch.optim.lr_scheduler import LambdaLR
from transformers import TrainerCallback

from ...extras.errors import ConfigError, in_one_line
from ...extras.files import read_json, write_json
from ...extras.logging import get_logger
from .stream_batches import Lookahead, StreamBatches, StreamPosition

logger = get_logger(__name__)


class StreamRun(TrainerCallback):
    """Counts epochs and steps, and knows where the run goes on after a checkpoint.

    Args:
        batches: Of this rank.
        accumulation: Micro-batches of one step.
        epochs: ``num_train_epochs``.
        max_steps: As the user set it; 0 or less = epochs count.
    """

    def __init__(self, batches: StreamBatches, accumulation: int, epochs: float, max_steps: int) -> None:
        self.batches, self.accumulation = batches, accumulation
        self.by_epochs = max_steps <= 0
        self.position, self.epoch, self.over = StreamPosition(), 0.0, False
        rows = len(batches.order(0))
        micro = rows * batches.rows.rate(batches.seed) / (batches.ranks * batches.batch)
        self.steps_an_epoch = max(1, math.ceil(math.ceil(micro - 1e-9) / accumulation))
        self.max_steps = math.ceil(epochs * self.steps_an_epoch) if self.by_epochs else max_steps
        self.epochs = epochs if self.by_epochs else math.ceil(max_steps / self.steps_an_epoch)
        self.raw_rows = rows
        logger.info_rank0("streaming: %s rows an epoch, about %s steps", f"{rows:,}", f"{self.steps_an_epoch:,}")

    def training_values(self, batch_size: int) -> tuple[int, int, int, int, int, int, int]:
        """Return what transformers' loop is set up with; its bounds are out of reach, for the data ends each epoch."""
        steps = self.steps_an_epoch * self.accumulation
        epochs = math.ceil(self.epochs) if self.by_epochs else self.max_steps
        return epochs, sys.maxsize, self.raw_rows, round(self.raw_rows * self.epochs), batch_size, steps, self.max_steps

    def take(self, batches: Lookahead, number: int) -> list[dict[str, Any]]:
        """Return the micro-batches of one step, filled up with such that train nothing; none when the epoch is over."""
        if self.over:
            return []
        taken = list(islice(batches, number))
        for batch in taken:
            self.position, self.epoch = batch.pop("position"), batch.pop("progress")
        return taken + [self.batches.filler() for _ in range(number - len(taken))]

    def end_epoch_and_run(self, more: bool, state: Any) -> None:
        """Decide, once all ranks know whether ``more`` batches follow the step, where the epoch and the run end."""
        epoch, step = self.position.epoch, state.global_step + 1
        last = self.by_epochs and epoch + 1 >= self.epochs
        if not more:
            self.over = True
            self.epoch = min(epoch + 1, self.epochs) if self.by_epochs else epoch + 1
            self.position = StreamPosition(epoch + 1)
        if self.by_epochs:
            if last and not more:
                state.max_steps = step
            elif state.max_steps <= step:
                state.max_steps = step + 1

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        state.num_train_epochs = math.ceil(self.epochs)

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.over = False

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        state.epoch = self.epoch

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        state.epoch = self.epoch
        tally = self.batches.tally
        self.batches.rows.say_unread(tally)
        if tally.dropped or tally.cut:
            logger.info_rank0(
                "streaming: of %s rows read by this process since it began the epoch, %s dropped (%s no answer, %s no "
                "trained token, %s too long), %s cut",
                *(f"{n:,}" for n in (tally.rows, tally.dropped, tally.unanswered, tally.untrained, tally.too_long)),
                f"{tally.cut:,}",
            )

    def hold_rates(self, scheduler: LambdaLR, steps: int) -> None:
        """Let learning rates stay where the schedule of ``steps`` steps ends: the data may give more than estimated."""
        scheduler.lr_lambdas = [_held(rate, steps) for rate in scheduler.lr_lambdas]

    def save_progress(self, folder: Path) -> None:
        """Write this rank's position."""
        write_json(_file(folder, self.batches.rank), {**asdict(self.position), "ranks": self.batches.ranks})

    def resume(self, folder: Path) -> int:
        """Go to the position of a checkpoint; returns its epoch.

        Raises:
            ConfigError: The checkpoint has none, or it was written by another number of processes.
        """
        path = _file(folder, self.batches.rank)
        if not path.is_file():
            raise ConfigError(
                f"resume_from_checkpoint: {folder} has no {path.name}; it was not made by this streaming run"
            )
        saved = read_json(path, dict, "resume_from_checkpoint")
        ranks = saved.pop("ranks", None)
        if ranks != self.batches.ranks:
            raise ConfigError(
                f"resume_from_checkpoint: {folder} was streamed by {ranks} processes, not {self.batches.ranks}"
            )
        with in_one_line(f"resume_from_checkpoint: {path} holds no position"):
            self.position = self.batches.start = StreamPosition(**saved)
        return self.position.epoch


def _held(rate: Callable[[int], float], steps: int) -> Callable[[int], float]:
    return lambda step: rate(min(step, steps))


def _file(folder: Path, rank: int) -> Path:
    return folder / f"stream-{rank}.json"
