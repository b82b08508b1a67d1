# SPDX-License-Identifier: Apache-2.0
"""Muon (Jordan 2024; Liu et al. 2025, arXiv:2502.16982): ``use_muon``; matrices of hidden layers, by torch's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...extras.errors import ConfigError
from ...hparams.rules.optimizer import require_optim

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import TrainingArguments

    from ...hparams import TrainArgs

# Parts of names of embeddings and heads, with adapters on them too.
_ENDS = ("embed", "lm_head", "wte", "wpe", "score", "classifier", "value_head")


def check(args: TrainArgs) -> None:
    """It takes the place of AdamW."""
    require_optim("use_muon", args.training.optim)


def create(model: nn.Module, args: TrainArgs, arguments: TrainingArguments) -> torch.optim.Optimizer:
    """Return Muon for the matrices of hidden layers and AdamW for embeddings, head, norms and biases.

    Muon's step is scaled to the size of AdamW's (``match_rms_adamw``), so that a learning rate for AdamW suits both,
    and the two matrices of a LoRA pair move alike whatever their shapes.

    Raises:
        ConfigError: There are no such matrices.
    """
    import torch

    from .algorithms.together import Together
    from .groups import by_decay, trained

    weights = trained(model)
    hidden = {name: weight for name, weight in weights.items() if _is_hidden(name, weight)}
    if not hidden:
        raise ConfigError("use_muon: no trained weight is a matrix of a hidden layer")
    others = {name: weight for name, weight in weights.items() if name not in hidden}
    rate, decay = arguments.learning_rate, arguments.weight_decay
    parts: list[torch.optim.Optimizer] = [
        torch.optim.Muon(by_decay(model, hidden, decay), lr=rate, adjust_lr_fn="match_rms_adamw")
    ]
    if others:
        betas = (arguments.adam_beta1, arguments.adam_beta2)
        groups = by_decay(model, others, decay)
        parts.append(torch.optim.AdamW(groups, lr=rate, betas=betas, eps=arguments.adam_epsilon))
    return Together(parts)


def _is_hidden(name: str, weight: torch.Tensor) -> bool:
    return weight.ndim == 2 and not any(part in name for part in _ENDS)
