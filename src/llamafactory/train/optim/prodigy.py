# SPDX-License-Identifier: Apache-2.0
"""Prodigy (Mishchenko & Defazio 2023, arXiv:2306.06101): ``optim: prodigy``; it finds the size of its steps itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...extras.logging import get_logger
from ...extras.packages import require_installed

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import TrainingArguments

    from ...hparams import TrainArgs

logger = get_logger(__name__)


def check(args: TrainArgs) -> None:
    """Its package is there; a learning rate for AdamW is said."""
    require_installed("prodigyopt", "optim: prodigy")
    rate = args.training.learning_rate
    if rate < 0.1:
        logger.warning_once(f"learning_rate: {rate} is a factor of the steps that prodigy finds; 1.0 is usual")


def create(model: nn.Module, args: TrainArgs, arguments: TrainingArguments) -> torch.optim.Optimizer:
    """Return Prodigy for the trained weights, with decoupled weight decay and the correction for warm-up."""
    from .packaged import from_package

    betas = (arguments.adam_beta1, arguments.adam_beta2)
    settings = {"betas": betas, "eps": arguments.adam_epsilon, "safeguard_warmup": True, "use_bias_correction": True}
    return from_package("Prodigy", "prodigyopt", "prodigyopt", model, arguments, **settings)
