# SPDX-License-Identifier: Apache-2.0
"""What a run is about to do, said before its first step."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from ...extras.logging import get_logger
from ..recipe import advise

if TYPE_CHECKING:
    from ...data.loader import DatasetModule
    from ...hparams import TrainArgs

logger = get_logger(__name__)


class PlanCallback(TrainerCallback):
    """Says how much will be trained on for how long, and warns where that can teach nothing.

    Args:
        args: The run's, with what it chose.
        dataset: Its data.
        generates: Whether a step takes completions of the rows instead of rows.
    """

    def __init__(self, args: TrainArgs, dataset: DatasetModule, generates: bool) -> None:
        self.args = args
        self.rows = len(dataset.train) if dataset.train is not None else 0
        self.tokens, self.is_packed = dataset.report.train_tokens, dataset.report.fill is not None
        self.of_step = " completions" if generates else ""

    def on_train_begin(self, args: Any, state: Any, control: Any, train_dataloader: Any = None, **kwargs: Any) -> None:
        what = f"{self.rows:,} {'packed ' * self.is_packed}rows" + (f" ({self.tokens:,} tokens)" if self.tokens else "")
        batch = args.train_batch_size * args.gradient_accumulation_steps * args.data_size
        done = f", {state.global_step} of them done" if state.global_step else ""
        warmup = args.get_warmup_steps(state.max_steps)
        logger.info_rank0(
            "plan: %s in steps of %d%s%s steps%s%s; learning rate %g",
            *(what, batch, self.of_step, _epochs(args, state, train_dataloader), done),
            *(f", the first {warmup} to warm up" * bool(warmup), args.learning_rate),
        )
        hint = advise(self.args, self.rows, state.max_steps, args.data_size)
        if hint and state.global_step < state.max_steps:
            logger.warning_rank0(hint)


def _epochs(args: Any, state: Any, batches: Any) -> str:
    """Return how many epochs and steps there will be; of a stream only its end tells exactly."""
    steps = f"{state.max_steps:,}"
    if hasattr(batches, "__len__"):
        epochs = epochs_at_end(state, len(batches), args.gradient_accumulation_steps)
        return f", {round(epochs, 2):g} epochs: {steps}"
    return f": {steps}" if args.max_steps > 0 else f", {args.num_train_epochs:g} epochs: about {steps}"


def epochs_at_end(state: Any, micro_batches: int, accumulation: int) -> float:
    """Return the epochs that the trainer will have counted after its last step.

    A step at the end of an epoch takes the micro-batches that are left. A resumed run begins at the row where its
    checkpoint stands, also where an epoch had another number of steps then.

    Args:
        state: The trainer's, before its first step.
        micro_batches: Of an epoch, on one rank.
        accumulation: Micro-batches of a full step.
    """
    an_epoch = max(1, math.ceil(micro_batches / accumulation))
    place = int((state.epoch or 0) * an_epoch + 1e-6) + state.max_steps - state.global_step
    whole, more = divmod(place, an_epoch)
    return float(whole + min(more * accumulation, micro_batches) / max(1, micro_batches))
