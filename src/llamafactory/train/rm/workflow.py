# SPDX-License-Identifier: Apache-2.0
"""Reward modelling: a score for each completion, learnt from pairs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...data.collators import PairCollator
from ...data.processor import PairwiseProcessor
from ...model.heads import REWARD
from ..stage import Stage
from ..workflow import run
from .trainer import RewardTrainer

if TYPE_CHECKING:
    from transformers import TrainerCallback

    from ...hparams import TrainArgs

stage = Stage(
    "rm",
    PairwiseProcessor(),
    head=lambda args, dataset: REWARD,
    trainer=RewardTrainer,
    collator=PairCollator,
    plots=(
        *("loss", "eval_loss", "rewards/accuracies", "rewards/margins", "rewards/chosen", "rewards/rejected"),
        *("eval_rewards/accuracies", "eval_rewards/margins"),
    ),
)


def run_rm(args: TrainArgs, callbacks: list[TrainerCallback] | None = None) -> None:
    """Run reward modelling; see :func:`llamafactory.train.workflow.run`."""
    run(stage.checked(args), callbacks)
