# SPDX-License-Identifier: Apache-2.0
"""Adam-mini (Zhang et al. 2024, arXiv:2406.16793): AdamW with one second moment a block instead of one an entry.

A block is a head of query and key, a row of any other matrix, or a whole vector; biases keep Adam's own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .moments import adam_step
from .restorable import EachWeight


class AdamMini(EachWeight):
    """Each group also has ``blocks``: into how many blocks each of its weights is cut; 0 = Adam as usual."""

    def update(self, weight: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        """Move one weight."""
        step = _mini_step if group["blocks"] else adam_step
        step(weight, gradient.to(weight.dtype), self.state[weight], group)


def _mini_step(weight: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
    (beta1, beta2), gradient = group["betas"], gradient.float()
    blocks = gradient.reshape(group["blocks"], -1)
    if "step" not in state:
        state.update(step=0, exp_avg=torch.zeros_like(gradient), block_sq=torch.zeros_like(blocks[:, :1]))
    state["step"] += 1
    weight.mul_(1 - group["lr"] * group["weight_decay"])
    state["exp_avg"].lerp_(gradient, 1 - beta1)
    state["block_sq"].mul_(beta2).add_(blocks.square().mean(1, keepdim=True), alpha=1 - beta2)
    root = (state["block_sq"] / (1 - beta2 ** state["step"])).sqrt().add_(group["eps"])
    change = state["exp_avg"].view_as(blocks) / root
    weight.add_(change.view_as(weight), alpha=-group["lr"] / (1 - beta1 ** state["step"]))
