# SPDX-License-Identifier: Apache-2.0
"""BAdam: ``use_badam``, one block of layers at a time (layer) or a share of every weight (ratio)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...extras.errors import ConfigError
from ...extras.logging import get_logger
from ...hparams.field import require
from ...hparams.rules.optimizer import require_optim
from ...model.layer_sampling import numbered_blocks

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import TrainingArguments

    from ...hparams import TrainArgs

logger = get_logger(__name__)


def check(args: TrainArgs) -> None:
    """It is AdamW; ratio mode has no weight decay, and a block that stays must be named."""
    badam, training = args.badam, args.training
    require_optim("use_badam", training.optim)
    require(not training.fp16, "fp16: true cannot be with use_badam; use bf16")
    if badam.badam_mode == "ratio":
        require(not training.weight_decay, f"weight_decay: {training.weight_decay} has no place in badam_mode ratio")
        return
    fixed = badam.badam_switch_mode == "fixed"
    require(
        not fixed or badam.badam_start_block is not None,
        "badam_start_block: missing, badam_switch_mode fixed needs it",
    )
    require(badam.badam_switch_interval != 1, "badam_switch_interval: expected 2 or more, or -1, got 1")


def create(model: nn.Module, args: TrainArgs, arguments: TrainingArguments) -> torch.optim.Optimizer:
    """Return BAdam for the trained weights of the layers; embeddings, head and final norm stay as they are.

    Raises:
        ConfigError: Several processes, or no such block.
    """
    from .algorithms.block_adam import BlockAdam, RatioAdam
    from .groups import by_decay, trained

    badam = args.badam
    if arguments.world_size > 1:
        raise ConfigError(f"use_badam: only with one process, not with {arguments.world_size}")
    interval = -1 if badam.badam_switch_interval is None else badam.badam_switch_interval
    settings = {
        "lr": arguments.learning_rate,
        "betas": (arguments.adam_beta1, arguments.adam_beta2),
        "eps": arguments.adam_epsilon,
    }
    weights = trained(model)
    blocks = _blocks(weights)
    kept = {name: weight for names in blocks.values() for name, weight in names.items()}
    if badam.badam_mode == "ratio":
        kept = {name: weight for name, weight in weights.items() if not _is_outside(model, weight)}
    for name in weights.keys() - kept.keys():
        weights[name].requires_grad_(False)
    groups = by_decay(model, kept, arguments.weight_decay, **settings)
    if badam.badam_mode == "ratio":
        scatter = badam.badam_mask_mode == "scatter"
        return RatioAdam(groups, badam.badam_update_ratio, interval, scatter, arguments.seed)
    start, names = badam.badam_start_block, list(blocks)
    if start is not None and start >= len(names):
        raise ConfigError(f"badam_start_block: {start}, but there are {len(names)} blocks, 0 to {len(names) - 1}")

    def told(block: int) -> None:
        if badam.badam_verbose:
            logger.info_rank0("BAdam: block %d of %d is trained, %s", block, len(names), names[block])
        if badam.badam_verbose > 1:
            logger.info_rank0("BAdam: %s", ", ".join(blocks[names[block]]))

    members = [list(block.values()) for block in blocks.values()]
    mode = badam.badam_switch_mode or "ascending"
    return BlockAdam(groups, members, mode, interval, start, arguments.seed, told)


def _blocks(weights: dict[str, nn.Parameter]) -> dict[str, dict[str, nn.Parameter]]:
    """Return the weights of each layer."""
    blocks = numbered_blocks(weights)
    if not blocks:
        raise ConfigError("use_badam: the trained weights belong to no numbered layers, so there are no blocks")
    return blocks


def _is_outside(model: Any, weight: nn.Parameter) -> bool:
    """Whether a weight is an embedding or the head."""
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    return any(weight is getattr(module, "weight", None) for module in ends)
