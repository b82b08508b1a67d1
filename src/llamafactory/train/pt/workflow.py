# SPDX-License-Identifier: Apache-2.0
"""Pre-training: running text, loss on every token."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ...data.processor import PretrainProcessor
from ..stage import Stage
from ..workflow import run

if TYPE_CHECKING:
    from transformers import TrainerCallback

    from ...hparams import TrainArgs


def with_perplexity(metrics: dict[str, float]) -> dict[str, float]:
    """Return ``metrics`` with exp(loss) beside each evaluation loss."""
    losses = {key: value for key, value in metrics.items() if key.endswith("_loss")}
    return metrics | {f"{key.removesuffix('_loss')}_perplexity": _exp(value) for key, value in losses.items()}


def _exp(loss: float) -> float:
    return math.exp(loss) if loss < 700 else math.inf  # exp overflows a double at 710


stage = Stage("pt", PretrainProcessor(), chat=False, finish=with_perplexity)


def run_pt(args: TrainArgs, callbacks: list[TrainerCallback] | None = None) -> None:
    """Run pre-training; see :func:`llamafactory.train.workflow.run`."""
    run(stage.checked(args), callbacks)
