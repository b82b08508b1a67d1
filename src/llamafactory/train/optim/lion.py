# SPDX-License-Identifier: Apache-2.0
"""Lion (Chen et al. 2023, arXiv:2302.06675): ``optim: lion``, the sign of a momentum, on any device."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...extras.packages import require_installed

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import TrainingArguments

    from ...hparams import TrainArgs


def check(args: TrainArgs) -> None:
    """Its package is there."""
    require_installed("lion_pytorch", "optim: lion", "lion-pytorch")


def create(model: nn.Module, args: TrainArgs, arguments: TrainingArguments) -> torch.optim.Optimizer:
    """Return Lion for the trained weights; ``adam_beta2`` of AdamW suits it badly, so 0.99 stands for its default."""
    from .packaged import from_package

    beta2 = arguments.adam_beta2 if "adam_beta2" in args.keys else 0.99
    return from_package("Lion", "lion_pytorch", "lion-pytorch", model, arguments, betas=(arguments.adam_beta1, beta2))
