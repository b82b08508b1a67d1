# SPDX-License-Identifier: Apache-2.0
"""RMSNorm in one pass each way: ``y = x / sqrt(mean(x^2) + eps) * (weight + shift)``, rounded once.

``shift`` is 0, or 1 in families that store the weight less 1 (Gemma). Kept for the backward pass are ``x``, which the
layer before has anyway, and one number a row.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from . import native


def rms_norm(x: Tensor, weight: Tensor, eps: float, shift: float = 0.0) -> Tensor:
    """Normalize the rows of ``x [..., d]`` by ``weight [d]``, both of one type; the result has the strides of x."""
    return _RMSNorm.apply(x, weight, eps, shift)


def fits(x: Tensor, weight: Tensor) -> bool:
    """Whether :func:`rms_norm` takes these: rows without gaps, which may be those of a transposed head axis."""
    dense = x.is_contiguous() or (x.dim() > 3 and x.transpose(1, 2).is_contiguous())
    return dense and x.numel() > 0 and native.takes(x, weight)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, shift: float) -> Tensor:
        y = torch.empty_like(x)
        scale = torch.empty(x.numel() // x.shape[-1], dtype=torch.float32, device=x.device)
        native.call("rms_norm", x.dtype, y, scale, x, weight, *_rows(x), eps, shift)
        ctx.save_for_backward(x, weight, scale)
        ctx.shift = shift
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, weight, scale = ctx.saved_tensors
        dx = torch.empty_like(x)
        dy = dy if dy.stride() == dx.stride() else torch.empty_like(x).copy_(dy)
        native.call("rms_norm_back", x.dtype, dx, dy, x, weight, scale, *_rows(x), ctx.shift)
        d_weight = None
        if ctx.needs_input_grad[1]:
            flat = (dy, x) if x.is_contiguous() else (one.transpose(1, 2) for one in (dy, x))
            rows_dy, rows_x = (one.reshape(-1, x.shape[-1]) for one in flat)
            d_weight = (rows_dy.float() * rows_x.float()).mul_(scale[:, None]).sum(0).to(weight.dtype)
        return dx, d_weight, None, None


def _rows(x: Tensor) -> tuple[int, int]:
    return x.numel() // x.shape[-1], x.shape[-1]


def shift_of(norm: nn.Module) -> float | None:
    """Return the ``shift`` with which a module computes what :func:`rms_norm` does, ``None`` if with neither.

    It is tried: what a class is called says little.
    """
    weight, eps = getattr(norm, "weight", None), eps_of(norm)
    if not isinstance(weight, Tensor) or weight.dim() != 1 or eps is None:
        return None
    generator = torch.Generator().manual_seed(0)
    x, tried = (torch.randn(shape, generator=generator) for shape in ((3, len(weight)), (len(weight),)))
    with torch.no_grad():
        # With a weight of our own: the module's may be a part of the whole, or not be loaded yet.
        expected = functional_call(norm, {"weight": tried}, x)
        for shift in (0.0, 1.0):
            found = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * (tried + shift)
            if isinstance(expected, Tensor) and torch.allclose(found, expected, rtol=1e-5, atol=1e-5):
                return shift
    return None


def eps_of(norm: nn.Module) -> float | None:
    """Return the small number that a module adds to the mean of squares."""
    found = getattr(norm, "variance_epsilon", getattr(norm, "eps", None))
    return found if isinstance(found, float) else None
