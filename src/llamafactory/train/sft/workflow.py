# SPDX-License-Identifier: Apache-2.0
"""Supervised fine-tuning: conversations, loss on the answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...data.processor import SupervisedProcessor
from ..evaluation.prediction import predict
from ..stage import Stage
from ..workflow import run

if TYPE_CHECKING:
    from transformers import TrainerCallback

    from ...hparams import TrainArgs

stage = Stage("sft", SupervisedProcessor(), predict=predict)


def run_sft(args: TrainArgs, callbacks: list[TrainerCallback] | None = None) -> None:
    """Run supervised fine-tuning; see :func:`llamafactory.train.workflow.run`."""
    run(args, callbacks)
