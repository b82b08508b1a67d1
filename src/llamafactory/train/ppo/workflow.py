# SPDX-License-Identifier: Apache-2.0
"""PPO: reinforcement learning with a critic, from a reward model or checkable rewards."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...data.processor import RolloutProcessor
from ..stage import Stage, always
from ..workflow import run
from .trainer import PPOTrainer

if TYPE_CHECKING:
    from transformers import TrainerCallback

    from ...hparams import TrainArgs

stage = Stage(
    "ppo",
    RolloutProcessor(),
    trainer=PPOTrainer,
    generates=always,
    plots=(
        "loss", "value_loss", "reward", "eval_reward", "reward_std", "kl", "entropy", "clip_fraction",
        "response_length", "finished",
    ),
)  # fmt: skip


def run_ppo(args: TrainArgs, callbacks: list[TrainerCallback] | None = None) -> None:
    """Run PPO; see :func:`llamafactory.train.workflow.run`."""
    run(stage.checked(args), callbacks)
