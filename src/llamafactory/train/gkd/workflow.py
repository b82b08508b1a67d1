# SPDX-License-Identifier: Apache-2.0
"""Distillation: a student learns the distributions of one teacher or of several, on given answers or on its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...data.processor import SupervisedProcessor
from ..stage import Stage
from ..workflow import run
from .trainer import DistillationTrainer

if TYPE_CHECKING:
    from transformers import TrainerCallback

    from ...hparams import TrainArgs


def writes_answers(args: TrainArgs) -> bool:
    """Whether the student's own answers take the place of some."""
    return args.rlhf.gkd_lambda > 0


stage = Stage(
    "gkd",
    SupervisedProcessor(),
    trainer=DistillationTrainer,
    generates=writes_answers,
    plots=("loss", "eval_loss", "nll", "eval_nll"),
)


def run_gkd(args: TrainArgs, callbacks: list[TrainerCallback] | None = None) -> None:
    """Run distillation; see :func:`llamafactory.train.workflow.run`."""
    run(stage.checked(args), callbacks)
