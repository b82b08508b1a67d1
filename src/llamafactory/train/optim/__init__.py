# SPDX-License-Identifier: Apache-2.0
"""Optimizers that transformers does not make by itself: a row of ``plugins.OPTIMIZERS`` each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...hparams.derive import chosen_optimizer
from ...plugins import resolve

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import TrainingArguments

    from ...hparams import TrainArgs


def create_optimizer(model: nn.Module, args: TrainArgs, arguments: TrainingArguments) -> torch.optim.Optimizer | None:
    """Return the optimizer that ``args`` ask for by their own keys, None for one of transformers' choice."""
    name = chosen_optimizer(args)
    if name is None:
        return None
    made: torch.optim.Optimizer = resolve("optimizers", name).create(model, args, arguments)
    return made
