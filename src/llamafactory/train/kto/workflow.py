# SPDX-License-Identifier: Apache-2.0
"""KTO: preference optimisation on single completions that were judged good or bad."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...data.collators import FeedbackCollator
from ...data.processor import FeedbackProcessor
from ..stage import Stage
from ..workflow import run
from .trainer import KTOTrainer

if TYPE_CHECKING:
    from transformers import TrainerCallback

    from ...hparams import TrainArgs

stage = Stage(
    "kto",
    FeedbackProcessor(),
    trainer=KTOTrainer,
    collator=FeedbackCollator,
    plots=(
        *("loss", "eval_loss", "kl", "rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies"),
        *("logps/chosen", "logps/rejected", "entropy", "eval_rewards/margins", "eval_rewards/accuracies"),
    ),
)


def run_kto(args: TrainArgs, callbacks: list[TrainerCallback] | None = None) -> None:
    """Run KTO; see :func:`llamafactory.train.workflow.run`."""
    run(stage.checked(args), callbacks)
