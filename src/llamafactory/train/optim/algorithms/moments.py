# SPDX-License-Identifier: Apache-2.0
"""Adam's two moments (Kingma & Ba 2014, arXiv:1412.6980), kept in a weight's state."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor


def update_moments(state: dict[str, Any], gradient: Tensor, betas: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """Take one gradient in and return both moments, not corrected; ``state["step"]`` counts from 1."""
    if "step" not in state:
        state.update(step=0, exp_avg=torch.zeros_like(gradient), exp_avg_sq=torch.zeros_like(gradient))
    state["step"] += 1
    first, second = state["exp_avg"], state["exp_avg_sq"]
    first.lerp_(gradient, 1 - betas[0])
    second.mul_(betas[1]).addcmul_(gradient, gradient, value=1 - betas[1])
    return first, second


def corrections(state: dict[str, Any], betas: tuple[float, float]) -> tuple[float, float]:
    """Return what the first moment, and the root of the second, are to be divided by."""
    step = state["step"]
    return 1 - betas[0] ** step, math.sqrt(1 - betas[1] ** step)


def adam_step(weight: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
    """Take one step of AdamW as torch takes it: weight decay first, then the update, in place."""
    weight.mul_(1 - group["lr"] * group["weight_decay"])
    first, second = update_moments(state, gradient, group["betas"])
    correction, root = corrections(state, group["betas"])
    weight.addcdiv_(first, (second.sqrt() / root).add_(group["eps"]), value=-group["lr"] / correction)
