# SPDX-License-Identifier: Apache-2.0
"""What a run is about to do, said before its first step."""

from __future__ import annotations

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
    """

    def __init__(self, args: TrainArgs, dataset: DatasetModule) -> None:
        self.args = args
        self.rows = len(dataset.train) if dataset.train is not None else 0
        self.tokens = dataset.report.train_tokens

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        batch = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        epochs = args.num_train_epochs if args.max_steps <= 0 else round(args.max_steps * batch / max(self.rows, 1), 2)
        what = f"{self.rows:,} rows" + (f" ({self.tokens:,} tokens)" if self.tokens else "")
        done = f", {state.global_step} of them done" if state.global_step else ""
        logger.info_rank0(
            "plan: %s in steps of %d, %g epochs: %s steps%s, the first %d to warm up; learning rate %g",
            *(what, batch, epochs, f"{state.max_steps:,}", done),
            *(args.get_warmup_steps(state.max_steps), args.learning_rate),
        )
        hint = advise(self.args, self.rows, state.max_steps, args.world_size)
        if hint:
            logger.warning_rank0(hint)
