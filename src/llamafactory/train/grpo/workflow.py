# SPDX-License-Identifier: Apache-2.0
"""GRPO: reinforcement learning from checkable rewards, without a critic."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...data.processor import RolloutProcessor
from ..stage import Stage, always
from ..workflow import run
from .trainer import GRPOTrainer

if TYPE_CHECKING:
    from transformers import TrainerCallback

    from ...hparams import TrainArgs

stage = Stage(
    "grpo",
    RolloutProcessor(),
    trainer=GRPOTrainer,
    generates=always,
    plots=(
        "loss", "reward", "eval_reward", "reward_std", "kl", "entropy", "clip_fraction", "response_length", "finished",
    ),
)  # fmt: skip


def run_grpo(args: TrainArgs, callbacks: list[TrainerCallback] | None = None) -> None:
    """Run GRPO; see :func:`llamafactory.train.workflow.run`."""
    run(stage.checked(args), callbacks)
