# SPDX-License-Identifier: Apache-2.0
"""Rotary positions in one pass each way: ``x cos + rotate_half(x) sin``, rounded once.

Written in PyTorch this is five operations, and ten more backward, two of which fill whole tensors with zeros.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from . import native


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the first ``R`` numbers of each head.

    Args:
        x: ``[B, H, T, D]``, the last axis without gaps.
        cos: ``[1 or B, T, R]``.
        sin: Like ``cos``.

    Returns:
        ``[B, H, T, D]``, in memory as ``[B, T, H, D]``: what the projections make and take.
    """
    return _Rotate.apply(x, cos, sin)


def fits(x: Tensor, cos: Tensor, sin: Tensor) -> bool:
    """Whether :func:`rotate` takes these."""
    return (
        x.dim() == 4
        and cos.dim() == 3
        and cos.shape == sin.shape
        and cos.shape[0] in (1, x.shape[0])
        and cos.shape[1] == x.shape[2]
        and cos.shape[2] <= x.shape[3]
        and cos.shape[2] % 2 == 0
        and x.stride(3) == 1
        and x.numel() > 0
        and not (cos.requires_grad or sin.requires_grad)
        and native.takes(x)
        and native.takes(cos, sin)
        # Otherwise the result is of the wider type; attention under autocast rounds it to the narrower one.
        and (x.dtype == cos.dtype or torch.is_autocast_enabled("cpu"))
    )


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turn(x, cos, sin, 1.0)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _turn(grad if grad.stride(3) == 1 else grad.contiguous(), cos, sin, -1.0), None, None


def _turn(x: Tensor, cos: Tensor, sin: Tensor, sign: float) -> Tensor:
    batch, heads, tokens, width = x.shape
    cos, sin = cos.float().contiguous(), sin.float().contiguous()
    out = x.new_empty(batch, tokens, heads, width)
    strides = (x.stride(0), x.stride(1), x.stride(2), cos.stride(0) if cos.shape[0] > 1 else 0)
    native.call("rotary", x.dtype, out, x, cos, sin, batch, heads, tokens, width, cos.shape[2], *strides, sign)
    return out.transpose(1, 2)


def replacement(original: Callable[..., Any]) -> Callable[..., Any] | None:
    """Return what computes the same as a modelling file's ``apply_rotary_pos_emb``; ``None`` where it is another one.

    It is tried on numbers: some families turn neighbouring numbers, or have other arguments.
    """
    generator = torch.Generator().manual_seed(0)
    q, k, cos, sin = (
        torch.randn(shape, generator=generator) for shape in ((1, 4, 3, 8), (1, 2, 3, 8), (1, 3, 8), (1, 3, 8))
    )
    try:
        expected = original(q, k, cos, sin)
    except (TypeError, ValueError, RuntimeError):
        return None
    found = (_plain(q, cos, sin), _plain(k, cos, sin))
    alike = (
        isinstance(expected, tuple)
        and len(expected) == 2
        and all(a.shape == b.shape and torch.allclose(a, b, atol=1e-5) for a, b in zip(found, expected, strict=True))
    )
    if not alike:
        return None

    def apply_rotary_pos_emb(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, *rest: Any, **named: Any) -> Any:
        if rest or named or not (fits(q, cos, sin) and fits(k, cos, sin)):
            return original(q, k, cos, sin, *rest, **named)
        return rotate(q, cos, sin), rotate(k, cos, sin)

    return apply_rotary_pos_emb


def _plain(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return x * cos[:, None] + torch.cat([-second, first], -1) * sin[:, None]
