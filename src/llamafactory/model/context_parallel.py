# SPDX-License-Identifier: Apache-2.0
"""One row over several processes (context parallelism): each holds a part of its tokens.

Outside attention a layer looks at one token alone. Inside, the processes exchange: each gets all tokens of some heads,
attends as one process would, and gives the tokens back (DeepSpeed Ulysses, Jacobs et al. 2023, arXiv:2309.14509). So
borders between parts are seen by nothing, and windows, sinks, soft caps and packed sequences work as without.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

from ..extras.errors import ConfigError

KEY = "context_parallel_size"
_OF_TOKENS = ("input_ids", "position_ids")  # of a batch, [1, T]


@dataclass(frozen=True)
class Context:
    """The processes that share a row.

    Attributes:
        group: Of these processes.
        rank: This one among them.
        size: How many they are.
        tokens: Of the row at hand.
    """

    group: dist.ProcessGroup
    rank: int
    size: int
    tokens: int = 0

    @property
    def part(self) -> int:
        """Tokens that a process holds; the last one may hold fillers."""
        return -(-self.tokens // self.size)


@cache
def context_of(size: int) -> Context:
    """Return the processes that this one shares its rows with; all processes call this together."""
    world, rank = dist.get_world_size(), dist.get_rank()
    groups = [dist.new_group(list(range(first, first + size))) for first in range(0, world, size)]
    return Context(groups[rank // size], rank % size, size)


def share(inputs: dict[str, Any], context: Context) -> dict[str, Any]:
    """Return this process's tokens of a padding-free batch, and beside them what attention must know."""
    assert "attention_mask" not in inputs, "rows without padding"
    context = replace(context, tokens=inputs["input_ids"].shape[-1])
    missing = context.part * context.size - context.tokens
    start = context.part * context.rank
    shared = {name: F.pad(inputs[name], (0, missing))[..., start : start + context.part] for name in _OF_TOKENS}
    return {**inputs, **shared, "context": context}


def to_heads(x: Tensor, context: Context) -> Tensor:
    """All tokens of this process's share of the heads: ``[1, H, part, D]`` to ``[1, H / size, tokens, D]``."""
    _, heads, part, width = x.shape
    sent = x.reshape(context.size, heads // context.size, part, width)
    got = _AllToAll.apply(sent, context.group)
    return got.transpose(0, 1).reshape(1, heads // context.size, -1, width)[:, :, : context.tokens]


def to_tokens(x: Tensor, context: Context) -> Tensor:
    """This process's tokens, all heads: ``[1, tokens, H / size, D]`` to ``[1, part, H, D]``."""
    _, tokens, heads, width = x.shape
    sent = F.pad(x[0], (0, 0, 0, 0, 0, context.part * context.size - tokens))
    got = _AllToAll.apply(sent.view(context.size, context.part, heads, width), context.group)
    return got.transpose(0, 1).reshape(1, context.part, -1, width)


def repeat_keys(x: Tensor, heads: int, context: Context) -> Tensor:
    """Repeat key heads ``[1, KV, T, D]`` until each process gets those of its query heads.

    Raises:
        ConfigError: The query heads do not divide.
    """
    require_heads(heads, x.shape[1], context.size)
    return x.repeat_interleave(context.size // math.gcd(x.shape[1], context.size), dim=1)


def require_heads(heads: int, key_heads: int, size: int) -> None:
    """Raise a :class:`ConfigError` unless each process can get as many heads as every other."""
    times = size // math.gcd(key_heads, size)
    if heads % size or heads % (key_heads * times):
        fits = [n for n in range(1, heads + 1) if not heads % n and not heads % math.lcm(key_heads, n)]
        raise ConfigError(
            f"{KEY}: {size} does not divide the model's {heads} attention heads ({key_heads} of keys); "
            f"it may be {', '.join(map(str, fits))}"
        )


def mine(places: Tensor, context: Context) -> tuple[Tensor, Tensor]:
    """Return which of some places ``[N]`` of the row are here: their numbers ``[n]``, and where they are here."""
    numbers = (places // context.part == context.rank).nonzero().squeeze(-1)
    return numbers, places.index_select(0, numbers) - context.rank * context.part


def whole(values: Tensor | None, numbers: Tensor, count: int, context: Context) -> Tensor | None:
    """Put values ``[n]`` of all processes together: ``[count]``, the same everywhere; None stays None.

    Every process computes the same loss of them, so each one's gradient counts as often as there are processes.
    """
    return None if values is None else _Whole.apply(values, numbers, count, context)


class _AllToAll(torch.autograd.Function):
    """Part ``i`` of ``[size, ...]`` goes to process ``i``; what comes back is in the order of the processes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        got = torch.empty_like(x, memory_format=torch.contiguous_format)
        dist.all_to_all_single(got, x.contiguous(), group=group)
        return got

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _AllToAll.apply(grad, ctx.group), None


class _Whole(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, numbers: Tensor, count: int, context: Context) -> Tensor:
        ctx.save_for_backward(numbers)
        ctx.size = context.size
        gathered = values.new_zeros(count, dtype=torch.promote_types(values.dtype, torch.float32))
        gathered.index_copy_(0, numbers, values.to(gathered.dtype))
        dist.all_reduce(gathered, group=context.group)
        return gathered.to(values.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (numbers,) = ctx.saved_tensors
        return grad.index_select(0, numbers) * ctx.size, None, None, None
