# SPDX-License-Identifier: Apache-2.0
"""Classification: one class of a text, several, or numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...data.collators import ClassificationCollator
from ...data.processor import ClassificationProcessor
from ..stage import Stage
from ..workflow import run
from .classes import find_head
from .trainer import ClassificationTrainer

if TYPE_CHECKING:
    from transformers import TrainerCallback

    from ...hparams import TrainArgs

stage = Stage(
    "classification",
    ClassificationProcessor(),
    head=find_head,
    trainer=ClassificationTrainer,
    collator=ClassificationCollator,
    chat=False,
    plots=("loss", "eval_loss", "accuracy", "eval_accuracy", "eval_f1", "eval_mae", "eval_pearson"),
)


def run_classification(args: TrainArgs, callbacks: list[TrainerCallback] | None = None) -> None:
    """Run classification or regression; see :func:`llamafactory.train.workflow.run`."""
    run(stage.checked(args), callbacks)
