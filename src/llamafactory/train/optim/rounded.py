# SPDX-License-Identifier: Apache-2.0
"""``stochastic_rounding``: AdamW whose bfloat16 weights are rounded up or down at random."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import TrainingArguments

    from ...hparams import TrainArgs


def check(args: TrainArgs) -> None:
    """Its rules are those of the key, which other optimizers obey too (``hparams/rules/optimizer.py``)."""


def create(model: nn.Module, args: TrainArgs, arguments: TrainingArguments) -> torch.optim.Optimizer:
    """Return AdamW that rounds so, for the trained weights."""
    from .algorithms.rounding import RoundedAdamW
    from .groups import by_decay, trained

    betas = (arguments.adam_beta1, arguments.adam_beta2)
    settings = {"lr": arguments.learning_rate, "betas": betas, "eps": arguments.adam_epsilon}
    return RoundedAdamW(by_decay(model, trained(model), arguments.weight_decay, **settings))
