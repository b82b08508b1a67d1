# SPDX-License-Identifier: Apache-2.0
"""Optimizers of packages that transformers does not know."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...extras.packages import require
from .groups import by_decay, trained

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import TrainingArguments


def from_package(
    name: str, package: str, pip: str, model: nn.Module, arguments: TrainingArguments, **settings: Any
) -> torch.optim.Optimizer:
    """Return the optimizer ``name`` of ``package`` for the trained weights."""
    kind = getattr(require(package, f"optim: {arguments.optim}", pip), name)
    groups = by_decay(model, trained(model), arguments.weight_decay)
    made: torch.optim.Optimizer = kind(groups, lr=arguments.learning_rate, **settings)
    return made
