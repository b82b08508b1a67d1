# SPDX-License-Identifier: Apache-2.0
"""Optimizers that transformers does not make by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import loraplus

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import TrainingArguments

    from ...hparams import TrainArgs


def create_optimizer(model: nn.Module, args: TrainArgs, arguments: TrainingArguments) -> torch.optim.Optimizer | None:
    """Return the optimizer that ``args`` ask for by their own keys, None for one of transformers' choice."""
    if getattr(args.tuner, "loraplus_lr_ratio", None) is not None:
        return loraplus.create(model, args.tuner, arguments)
    return None
