# SPDX-License-Identifier: Apache-2.0
"""A LoRA layer whose low-rank update is added with one rounding.

In half precision the usual order, ``y = round(x W^T); y = round(y + delta)``, loses every delta below half a unit in
the last place of ``y``: training stalls while the update is small. Here delta goes in as the addend of the matrix
product, ``y = round(delta + x W^T)``, which accumulates in float32 and rounds once. It costs nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from peft.tuners.lora.layer import Linear as PeftLinear
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from .quantizers.layers import Quantized


def use_exact_add(model: nn.Module) -> int:
    """Give every plain LoRA layer of ``model`` the exact forward; return how many there are."""
    layers = [module for module in model.modules() if type(module) is PeftLinear]
    for layer in layers:
        layer.__class__ = ExactLinear
    return len(layers)


class ExactLinear(PeftLinear):
    """PEFT's LoRA layer; the plain case (one adapter, no variant) runs through :class:`_LowRankSum`."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """``x [..., in]`` → ``[..., out]``, in the type of the base weight."""
        adapter = self._plain_adapter(x, args, kwargs)
        if adapter is None:
            return super().forward(x, *args, **kwargs)
        base = self.get_base_layer()
        dropout = self.lora_dropout[adapter]
        rows = x.reshape(-1, x.shape[-1])
        dropped = None if isinstance(dropout, nn.Identity) or not self.training else dropout(rows)
        down, up = self.lora_A[adapter].weight, self.lora_B[adapter].weight
        weight = functools.partial(base.dense_weight, x.dtype) if isinstance(base, Quantized) else lambda: base.weight
        y = _LowRankSum.apply(rows, dropped, weight, down, up, self.scaling[adapter])
        if base.bias is not None:
            y = y + base.bias
        return y.view(*x.shape[:-1], y.shape[-1])

    def _plain_adapter(self, x: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
        """Name of the one active adapter if nothing special is going on, else ``None``."""
        if args or kwargs or self.disable_adapters or self.merged or len(self.active_adapters) != 1:
            return None
        adapter = self.active_adapters[0]
        base = self.get_base_layer()
        dense = type(base) is nn.Linear and not base.weight.requires_grad and x.dtype == base.weight.dtype
        plain = (
            (dense or isinstance(base, Quantized))
            and adapter in self.lora_A
            and adapter not in self.lora_variant
            and not self.lora_bias[adapter]
            and not self.fan_in_fan_out
            and not isinstance(self.lora_B[adapter].weight, DTensor)  # shared by processes: its layer knows how
            and not isinstance(self.lora_A[adapter].weight, DTensor)
        )
        return adapter if plain else None


class _LowRankSum(torch.autograd.Function):
    """``y = x W^T + s (x' A^T) B^T`` with one rounding; ``x'`` is ``x`` after dropout.

    Shapes: x, x' ``[N, in]``; W ``[out, in]``, frozen, from a function: a quantized one is made dense in the forward
    and again in the backward; A ``[r, in]``, B ``[out, r]``. A and B are cast to the type of x for the products; their
    gradients are handed back in their own type.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        dropped: Tensor | None,
        weight: Callable[[], Tensor],
        down: Tensor,
        up: Tensor,
        scale: float,
    ) -> Tensor:
        source = x if dropped is None else dropped
        low = source @ down.to(x.dtype).t()
        y = torch.addmm(low @ (up * scale).to(x.dtype).t(), x, weight().t())
        ctx.save_for_backward(source, low, down, up)
        ctx.weight, ctx.scale, ctx.has_dropout = weight, scale, dropped is not None
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, Tensor | None, None, Tensor, Tensor, None]:
        source, low, down, up = ctx.saved_tensors
        d_low = dy @ (up * ctx.scale).to(dy.dtype)
        d_down = _product(d_low.t(), source, down.dtype)
        d_up = _product(low.t(), dy, up.dtype).t() * ctx.scale  # this way round CPUs make it in half the time
        narrow = down.to(dy.dtype)
        dx = d_dropped = None
        if ctx.has_dropout:
            d_dropped = d_low @ narrow if ctx.needs_input_grad[1] else None
            dx = dy @ ctx.weight() if ctx.needs_input_grad[0] else None
        elif ctx.needs_input_grad[0]:
            dx = torch.addmm(d_low @ narrow, dy, ctx.weight())
        return dx, d_dropped, None, d_down, d_up, None


def _product(a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
    """``a @ b`` in ``dtype``: on CUDA straight from the float32 sums, else rounded to the operands' type first."""
    if a.is_cuda and a.dtype != dtype == torch.float32:
        return torch.mm(a, b, out_dtype=dtype)
    return (a @ b).to(dtype)
