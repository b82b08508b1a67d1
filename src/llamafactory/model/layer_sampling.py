# SPDX-License-Identifier: Apache-2.0
"""LISA (Pan et al. 2024, arXiv:2403.17919): a few blocks drawn at random are trained for a while, then others.

Embeddings, head and the last norm are trained always. As in the paper's algorithm 1 each draw is uniform over the
blocks, and AdamW runs on what is drawn: a block that leaves takes its moments with it (that is the memory saved), one
that comes back, or stays out for a while, begins with new ones; one that is drawn twice in a row keeps them.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback

from ..extras.errors import ConfigError
from ..extras.logging import get_logger

logger = get_logger(__name__)


def numbered_blocks(weights: dict[str, nn.Parameter]) -> dict[str, dict[str, nn.Parameter]]:
    """Weights of each block, by the path of the block: up to the first number in a weight's name."""
    blocks: dict[str, dict[str, nn.Parameter]] = {}
    for name, weight in weights.items():
        if found := re.match(r"(.*?\.\d+)\.", name):
            blocks.setdefault(found[1], {})[name] = weight
    return blocks


class LayerSampling(TrainerCallback):
    """Draws the blocks of each period anew.

    Which ones follows from the seed and the number of the period alone, so that all processes, and a resumed run, draw
    the same.

    Args:
        model: All that it trains may be drawn.
        count: Blocks that are trained at a time.
        interval: Optimizer steps of a period.

    Raises:
        ConfigError: The model has fewer blocks.
    """

    def __init__(self, model: nn.Module, count: int, interval: int) -> None:
        trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        self.blocks = [list(block.values()) for block in numbered_blocks(trained).values()]
        self.count, self.interval = count, interval
        self.period = -1
        if count > len(self.blocks):
            raise ConfigError(f"lisa_activated_layers: {count} asked, the model has {len(self.blocks)} blocks")
        in_blocks = sum(weight.numel() for block in self.blocks for weight in block)
        logger.info_rank0(
            "LISA: %d of %d blocks are trained at a time, other ones every %d steps; %s parameters outside of blocks "
            "always",
            *(count, len(self.blocks), interval),
            f"{sum(weight.numel() for weight in trained.values()) - in_blocks:,}",
        )

    def on_step_begin(self, args: Any, state: Any, control: Any, optimizer: Any = None, **kwargs: Any) -> None:
        """Draw, when a period begins."""
        if state.global_step // self.interval != self.period:
            self.period = state.global_step // self.interval
            self.activate(self.draw(args.seed, self.period), optimizer)

    def draw(self, seed: int, period: int) -> list[int]:
        """Numbers of the blocks of a period, without one twice."""
        generator = torch.Generator().manual_seed(seed + 1_000_003 * period)
        return sorted(torch.randperm(len(self.blocks), generator=generator)[: self.count].tolist())

    def activate(self, drawn: list[int], optimizer: Any = None) -> None:
        """Let these blocks be trained and the others be frozen, without a gradient and without a state."""
        for number, block in enumerate(self.blocks):
            for weight in block:
                weight.requires_grad_(number in drawn)
                if number not in drawn:
                    weight.grad = None
                    if optimizer is not None:
                        optimizer.state.pop(weight, None)
