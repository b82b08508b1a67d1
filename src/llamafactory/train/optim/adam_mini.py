# SPDX-License-Identifier: Apache-2.0
"""Adam-mini: ``use_adam_mini``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...hparams.rules.optimizer import require_optim

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import TrainingArguments

    from ...hparams import TrainArgs


def check(args: TrainArgs) -> None:
    """It takes the place of AdamW."""
    require_optim("use_adam_mini", args.training.optim)


def create(model: nn.Module, args: TrainArgs, arguments: TrainingArguments) -> torch.optim.Optimizer:
    """Return Adam-mini for the trained weights."""
    from .algorithms.adam_mini import AdamMini
    from .groups import by_decay, trained

    settings = {
        "lr": arguments.learning_rate,
        "betas": (arguments.adam_beta1, arguments.adam_beta2),
        "eps": arguments.adam_epsilon,
    }
    by_blocks: dict[int, dict[str, nn.Parameter]] = {}
    for name, weight in trained(model).items():
        by_blocks.setdefault(block_count(name, weight, _heads(model)), {})[name] = weight
    return AdamMini(
        [
            group
            for blocks, weights in by_blocks.items()
            for group in by_decay(model, weights, arguments.weight_decay, **settings, blocks=blocks)
        ]
    )


def block_count(name: str, weight: torch.Tensor, heads: tuple[int, int]) -> int:
    """Return into how many blocks a weight is cut; 0 = Adam as usual.

    Args:
        name: Its path.
        weight: Itself.
        heads: Of queries, and of keys.
    """
    if "bias" in name:
        return 0
    if weight.ndim < 2:
        return 1
    count = heads[0] if "q_proj" in name else heads[1] if "k_proj" in name else 0
    if count and "lora_" not in name and len(weight) % count == 0:
        return count
    return weight.numel() // weight.shape[-1]


def _heads(model: Any) -> tuple[int, int]:
    config = model.config.get_text_config()
    heads = getattr(config, "num_attention_heads", 0)
    return heads, getattr(config, "num_key_value_heads", None) or heads
