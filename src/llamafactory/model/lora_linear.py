# SPDX-License-Identifier: Apache-2.0
"""LoRA layers whose low-rank update is added with one rounding; those that read one input are computed together.

In half precision the usual order, ``y = round(x W^T); y = round(y + delta)``, loses every delta below half a unit in
the last place of ``y``: training stalls while the update is small. Here delta goes in as the addend of the matrix
product, ``y = round(delta + x W^T)``, which accumulates in float32 and rounds once. It costs nothing.

The products with A and B are thin, so that reading ``x`` takes longer than computing: for q, k, v (and gate, up) all A
are one matrix, and the gradient with respect to ``x`` is one sum.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import torch
from peft.tuners.lora.layer import Linear as PeftLinear
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from .quantizers.layers import Quantized

_SIBLINGS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))


def use_exact_add(model: nn.Module) -> int:
    """Give every plain LoRA layer of ``model`` the exact forward; return how many there are."""
    layers = [module for module in model.modules() if type(module) is PeftLinear]
    for layer in layers:
        layer.__class__ = ExactLinear
    for parent in model.modules():
        for names in _SIBLINGS:
            found = [getattr(parent, name, None) for name in names]
            members = [layer for layer in found if isinstance(layer, ExactLinear)]
            if len(members) > 1:
                group = Siblings(members)
                for layer in members:
                    layer.siblings = (group,)  # in a tuple: no submodule of each
    return len(layers)


class ExactLinear(PeftLinear):
    """PEFT's LoRA layer; the plain case (one adapter, no variant) runs through :class:`_LowRankSums`."""

    siblings: tuple[Siblings, ...] = ()

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """``x [..., in]`` → ``[..., out]``, in the type of the base weight."""
        adapter = self.plain_adapter(x, args, kwargs)
        if adapter is None:
            return super().forward(x, *args, **kwargs)
        for group in self.siblings:
            y = group.output(self, x)
            if y is not None:
                return y
        dropout = self.lora_dropout[adapter]
        rows = x.reshape(-1, x.shape[-1])
        dropped = None if isinstance(dropout, nn.Identity) or not self.training else dropout(rows)
        (y,) = _low_rank_sums(rows, dropped, [self.part(adapter, x.dtype)])
        return y.view(*x.shape[:-1], y.shape[-1])

    def plain_adapter(self, x: Tensor, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> str | None:
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

    def drops(self, adapter: str) -> bool:
        """Whether numbers are dropped at random before A."""
        return self.training and not isinstance(self.lora_dropout[adapter], nn.Identity)

    def part(self, adapter: str, dtype: torch.dtype) -> _Part:
        """What the sum is made of."""
        base = self.get_base_layer()
        weight = functools.partial(base.dense_weight, dtype) if isinstance(base, Quantized) else lambda: base.weight
        down, up = self.lora_A[adapter].weight, self.lora_B[adapter].weight
        return _Part(weight, base.bias, down, up, self.scaling[adapter])


class Siblings:
    """Layers that are called one after the other with the same tensor: the first call computes all.

    That they are is what modelling code does with such names; where it gives them different tensors, each layer is
    computed alone from then on.
    """

    def __init__(self, members: Sequence[ExactLinear]) -> None:
        self.members = tuple(members)
        self._input: Tensor | None = None
        self._waiting: dict[ExactLinear, Tensor] = {}

    def output(self, layer: ExactLinear, x: Tensor) -> Tensor | None:
        """Return what ``layer`` makes of ``x``, or ``None``: it has to be computed alone."""
        if layer is not self.members[0]:
            if x is self._input and layer in self._waiting:
                return self._taken(layer)
            if self._waiting:
                self._forget()
                for member in self.members:
                    member.siblings = ()
            return None
        self._forget()
        adapters = [member.plain_adapter(x) for member in self.members]
        if any(name is None or member.drops(name) for member, name in zip(self.members, adapters, strict=True)):
            return None
        parts = [member.part(str(name), x.dtype) for member, name in zip(self.members, adapters, strict=True)]
        made = _low_rank_sums(x.reshape(-1, x.shape[-1]), None, parts)
        self._input = x
        self._waiting = {
            member: y.view(*x.shape[:-1], y.shape[-1]) for member, y in zip(self.members, made, strict=True)
        }
        return self._taken(layer)

    def _taken(self, layer: ExactLinear) -> Tensor:
        y = self._waiting.pop(layer)
        if not self._waiting:
            self._forget()
        return y

    def _forget(self) -> None:
        self._input, self._waiting = None, {}


class _Part(NamedTuple):
    """One layer: W ``[out, in]``, frozen, from a function; its bias; A ``[r, in]``, B ``[out, r]``, and the scale."""

    weight: Callable[[], Tensor]
    bias: Tensor | None
    down: Tensor
    up: Tensor
    scale: float


def _low_rank_sums(x: Tensor, dropped: Tensor | None, parts: Sequence[_Part]) -> list[Tensor]:
    adapters = [part.down for part in parts] + [part.up for part in parts]
    sums = _LowRankSums.apply(x, dropped, [part.weight for part in parts], [part.scale for part in parts], *adapters)
    return [y if part.bias is None else y + part.bias for y, part in zip(sums, parts, strict=True)]


class _LowRankSums(torch.autograd.Function):
    """``y_i = x W_i^T + s_i (x' A_i^T) B_i^T`` with one rounding; ``x'`` is ``x`` after dropout.

    Shapes: x, x' ``[N, in]``; the rest as in :class:`_Part`. A quantized W is made dense in the forward and again in
    the backward. A and B are cast to the type of x for the products; their gradients come back in their own type.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        dropped: Tensor | None,
        weights: Sequence[Callable[[], Tensor]],
        scales: Sequence[float],
        *adapters: Tensor,
    ) -> tuple[Tensor, ...]:
        downs, ups = adapters[: len(weights)], adapters[len(weights) :]
        ctx.places = [*pairwise(accumulate((len(down) for down in downs), initial=0))]
        ctx.weights, ctx.scales, ctx.has_dropout = weights, scales, dropped is not None
        ctx.types = [adapter.dtype for adapter in adapters]
        source = x if dropped is None else dropped
        down = (downs[0] if len(downs) == 1 else torch.cat(downs)).to(x.dtype)
        scaled = [(up * scale).to(x.dtype) for up, scale in zip(ups, scales, strict=True)]
        low = source @ down.t()
        ctx.save_for_backward(source, low, down, *scaled)
        sums = []
        for weight, up, (begin, end) in zip(weights, scaled, ctx.places, strict=True):
            sums.append((low[:, begin:end] @ up.t()).addmm_(x, weight().t()))
        return tuple(sums)

    @staticmethod
    def backward(ctx: Any, *flows: Tensor) -> tuple[Tensor | None, ...]:
        source, low, down, *scaled = ctx.saved_tensors
        count = len(scaled)
        d_lows, d_ups = [], []
        for dy, up, scale, dtype, (begin, end) in zip(
            flows, scaled, ctx.scales, ctx.types[count:], ctx.places, strict=True
        ):
            d_lows.append(dy @ up)
            # this way round CPUs make it in half the time
            d_ups.append(_product(low[:, begin:end].t(), dy, dtype).t() * scale)
        d_low = d_lows[0] if count == 1 else torch.cat(d_lows, 1)
        d_down = _product(d_low.t(), source, ctx.types[0])
        d_downs = [d_down[begin:end].to(dtype) for (begin, end), dtype in zip(ctx.places, ctx.types, strict=False)]
        dx = d_dropped = None
        if ctx.has_dropout and ctx.needs_input_grad[1]:
            d_dropped = d_low @ down
        if ctx.needs_input_grad[0]:
            dx = None if ctx.has_dropout else d_low @ down
            for dy, weight in zip(flows, ctx.weights, strict=True):
                dx = dy @ weight() if dx is None else dx.addmm_(dy, weight())
        return dx, d_dropped, None, None, *d_downs, *d_ups


def _product(a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
    """``a @ b`` in ``dtype``: on CUDA straight from the float32 sums, else rounded to the operands' type first."""
    if a.is_cuda and a.dtype != dtype == torch.float32:
        return torch.mm(a, b, out_dtype=dtype)
    return (a @ b).to(dtype)
