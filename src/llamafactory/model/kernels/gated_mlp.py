# SPDX-License-Identifier: Apache-2.0
"""The product in the middle of a gated MLP, ``act(gate) * up``, in one pass each way and rounded once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from . import native

SILU, GELU_TANH = 0, 1


def glu(gate: Tensor, up: Tensor, kind: int) -> Tensor:
    """``act(gate) * up``, ``[..., d]`` each; ``kind`` is :data:`SILU` or :data:`GELU_TANH`."""
    return _Glu.apply(gate, up, kind)


def fits(gate: Tensor, up: Tensor) -> bool:
    """Whether :func:`glu` takes these."""
    return gate.is_contiguous() and up.is_contiguous() and gate.numel() > 0 and native.takes(gate, up)


class _Glu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, kind: int) -> Tensor:
        out = torch.empty_like(gate)
        native.call("glu", gate.dtype, out, gate, up, *_rows(gate), kind)
        ctx.save_for_backward(gate, up)
        ctx.kind = kind
        return out

    @staticmethod
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor, Tensor, None]:
        gate, up = ctx.saved_tensors
        d_gate, d_up = torch.empty_like(gate), torch.empty_like(up)
        native.call("glu_back", gate.dtype, d_gate, d_up, d_out.contiguous(), gate, up, *_rows(gate), ctx.kind)
        return d_gate, d_up, None


def _rows(x: Tensor) -> tuple[int, int, int]:
    return x.numel() // x.shape[-1], x.shape[-1], x.shape[-1]


def kind_of(activation: Any) -> int | None:
    """Return which of the two activations a function or module is, by trying it; ``None`` for another one."""
    x = torch.linspace(-6, 6, 97)
    try:
        found = activation(x)
    except (TypeError, ValueError, RuntimeError):
        return None
    for kind, known in ((SILU, nn.functional.silu(x)), (GELU_TANH, nn.functional.gelu(x, approximate="tanh"))):
        if isinstance(found, Tensor) and found.shape == x.shape and torch.allclose(found, known, rtol=1e-5, atol=1e-6):
            return kind
    return None
