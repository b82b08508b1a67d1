# SPDX-License-Identifier: Apache-2.0
"""BAdam (Luo et al. 2024, arXiv:2404.02827): AdamW on one block of weights at a time, or on a share of each weight."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .moments import adam_step, corrections, update_moments
from .restorable import EachWeight


class BlockAdam(EachWeight):
    """Layer mode. Weights outside the active block are frozen, so that no gradient is computed for them.

    Args:
        groups: Groups with ``lr``, ``weight_decay``, ``betas`` and ``eps``.
        blocks: The weights of each block.
        switch_mode: ascending, descending, random (each block once, in an order drawn anew) or fixed.
        interval: Steps of a block, -1 = never switch. As in the authors' package the first block has one step less.
        start: The first block; None = where the mode begins.
        seed: Of random orders.
        told: Called with the number of each block that becomes active.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        blocks: list[list[nn.Parameter]],
        switch_mode: str,
        interval: int,
        start: int | None = None,
        seed: int = 0,
        told: Callable[[int], None] = lambda block: None,
    ) -> None:
        super().__init__(groups)
        self.blocks, self.switch_mode, self.interval, self.told, self.seed = blocks, switch_mode, interval, told, seed
        self.place.update(block=-1, steps=0, order=[])
        self._activate(self._next() if start is None else start)

    def begin_below(self) -> None:
        """Activate the lowest block that will be active, whose step needs the activations of all above it."""
        if self.switch_mode != "fixed" and self.interval > 0:
            self._activate(0)

    @property
    def place(self) -> dict[str, Any]:
        """Where the run is: active ``block``, ``steps`` done, ``order`` still to come; checkpoints keep groups."""
        return self.param_groups[0]

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Update the active block, and switch when its time is over."""
        super().step()
        self.place["steps"] += 1
        if self.interval > 0 and (self.place["steps"] + 1) % self.interval == 0:
            self.state.clear()
            self._activate(self._next())

    def update(self, weight: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        """Move one weight, of half precision through a float32 copy."""
        state = self.state[weight]
        if weight.dtype == torch.float32:
            adam_step(weight, gradient, state, group)
            return
        if "master" not in state:
            state["master"] = weight.float()
        adam_step(state["master"], gradient.float(), state, group)
        weight.copy_(state["master"])

    def _next(self) -> int:
        place, count = self.place, len(self.blocks)
        if self.switch_mode == "random":
            if not place["order"]:
                draw = torch.Generator().manual_seed(self.seed + place["steps"])
                place["order"] = torch.randperm(count, generator=draw).tolist()
            return int(place["order"].pop())
        if self.switch_mode == "fixed":
            return int(place["block"])
        if place["block"] < 0:
            return 0 if self.switch_mode == "ascending" else count - 1
        return int(place["block"] + (1 if self.switch_mode == "ascending" else -1)) % count

    def _activate(self, block: int) -> None:
        self.place["block"] = block
        active = {id(weight) for weight in self.blocks[block]}
        for weight in self.weights():
            weight.requires_grad_(id(weight) in active)
            weight.grad = weight.grad if id(weight) in active else None
        self.told(block)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave, the active block too."""
        super().load_state_dict(state_dict)
        self._activate(self.place["block"])


class RatioAdam(EachWeight):
    """Ratio mode: Adam on ``ratio`` of the entries of each weight, on the next ones every ``interval`` steps.

    Args:
        groups: Groups with ``lr``, ``betas`` and ``eps``; there is no weight decay.
        ratio: Share of the entries.
        interval: Steps until the next entries, -1 = never.
        scatter: Take entries at random instead of adjacent ones.
        seed: Of random entries.
    """

    def __init__(
        self, groups: list[dict[str, Any]], ratio: float, interval: int, scatter: bool = False, seed: int = 0
    ) -> None:
        super().__init__(groups)
        self.ratio, self.interval, self.scatter, self.seed = ratio, interval, scatter, seed
        self.number = {weight: number for number, weight in enumerate(self.weights())}
        self._entries: dict[Tensor, tuple[int, Tensor]] = {}

    def update(self, weight: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        """Move the chosen entries of one weight."""
        state, count = self.state[weight], max(1, int(weight.numel() * self.ratio))
        state.setdefault("offset", 0)
        entries = self._chosen(weight, state["offset"], count)
        first, second = update_moments(state, gradient.flatten()[entries].float(), group["betas"])
        correction, root = corrections(state, group["betas"])
        # As the authors have it: eps is added to the root that is not corrected.
        change = first / (second.sqrt() + group["eps"]) * (-group["lr"] * root / correction)
        weight.view(-1).index_add_(0, entries, change.to(weight.dtype))
        if state["step"] == self.interval:
            self.state[weight] = {"offset": (state["offset"] + count) % weight.numel()}

    def _chosen(self, weight: Tensor, offset: int, count: int) -> Tensor:
        """Return [count] places in the flattened weight; they are made again after a resume."""
        at, entries = self._entries.get(weight, (-1, weight))
        if at != offset:
            entries = (torch.arange(count) + offset) % weight.numel()
            if self.scatter:
                draw = torch.Generator().manual_seed(self.seed + 1_000_003 * self.number[weight])
                entries = torch.randperm(weight.numel(), generator=draw)[entries]
            entries = entries.to(weight.device)
            self._entries[weight] = (offset, entries)
        return entries
