# SPDX-License-Identifier: Apache-2.0
"""SOAP (Vyas et al. 2024, arXiv:2409.11321): ``optim: soap``; AdamW in the eigenbasis of Shampoo's preconditioner."""

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
    require_installed("pytorch_optimizer", "optim: soap", "pytorch-optimizer")


def create(model: nn.Module, args: TrainArgs, arguments: TrainingArguments) -> torch.optim.Optimizer:
    """Return SOAP for the trained weights."""
    from .packaged import from_package

    betas = (arguments.adam_beta1, arguments.adam_beta2)
    settings = {"betas": betas, "eps": arguments.adam_epsilon}
    return from_package("SOAP", "pytorch_optimizer", "pytorch-optimizer", model, arguments, **settings)
