# SPDX-License-Identifier: Apache-2.0
"""Preference optimisation on pairs of completions: DPO and its family, chosen by ``pref_loss``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...data.collators import PairCollator
from ...data.processor import PairwiseProcessor
from ..stage import Stage
from ..workflow import run
from .trainer import DPOTrainer

if TYPE_CHECKING:
    from transformers import TrainerCallback

    from ...hparams import TrainArgs

stage = Stage(
    "dpo",
    PairwiseProcessor(),
    trainer=DPOTrainer,
    collator=PairCollator,
    plots=(
        *("loss", "eval_loss", "rewards/accuracies", "rewards/margins", "rewards/chosen", "rewards/rejected"),
        *("logps/chosen", "logps/rejected", "entropy", "eval_rewards/accuracies", "eval_rewards/margins"),
    ),
)


def run_dpo(args: TrainArgs, callbacks: list[TrainerCallback] | None = None) -> None:
    """Run preference optimisation; see :func:`llamafactory.train.workflow.run`."""
    run(stage.checked(args), callbacks)
