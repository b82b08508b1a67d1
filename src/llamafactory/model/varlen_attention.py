# SPDX-License-Identifier: Apache-2.0
"""Varlen attention without a varlen kernel: short sequences of a packed row in one kernel call instead of one each.

Sequences of like length form a group ``[G, L]``, the shorter ones filled up at their ends. Causal attention never looks
ahead, so what fills a sequence up is seen by no token of it, and its own (meaningless) output is left out again.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

_LEAST_SHARE = 0.5  # a sequence shorter than this share of its group's longest begins a new group


class Group(NamedTuple):
    """So many sequences, filled up to ``length`` tokens each."""

    sequences: int
    length: int


class Layout(NamedTuple):
    """Where the tokens of a row go.

    Attributes:
        groups: In the order in which they lie in the filled layout.
        rows: Which token stands at each place of the filled layout (a filler repeats its sequence's first token).
        places: Where each token stands in the filled layout ``[T]``.
        fillers: Places that hold no token.
    """

    groups: tuple[Group, ...]
    rows: Tensor
    places: Tensor
    fillers: Tensor


@lru_cache(maxsize=64)
def layout(bounds: tuple[int, ...], longest: int) -> Layout | None:
    """Group the sequences of at most ``longest`` tokens; longer ones stay alone.

    Args:
        bounds: Where sequences begin, and the end of the last: ``S + 1`` numbers.
        longest: Most tokens of a sequence that is grouped.

    Returns:
        The layout, or ``None`` when no two sequences share a group.
    """
    spans = sorted((span for span in pairwise(bounds) if span[1] > span[0]), key=lambda span: span[0] - span[1])
    members: list[list[tuple[int, int]]] = []
    for begin, end in spans:
        head = members[-1][0] if members else (0, 0)
        size = head[1] - head[0]
        if members and size <= longest and end - begin >= _LEAST_SHARE * size:
            members[-1].append((begin, end))
        else:
            members.append([(begin, end)])
    if len(members) == len(spans):
        return None
    groups = tuple(Group(len(spans), spans[0][1] - spans[0][0]) for spans in members)
    rows: list[int] = []
    fillers: list[int] = []
    places = torch.empty(bounds[-1], dtype=torch.long)
    for group, inside in zip(groups, members, strict=True):
        for begin, end in inside:
            here = len(rows)
            places[begin:end] = torch.arange(here, here + end - begin)
            rows += [*range(begin, end), *[begin] * (group.length - (end - begin))]
            fillers += range(here + end - begin, here + group.length)
    return Layout(groups, torch.tensor(rows), places, torch.tensor(fillers, dtype=torch.long))


def spread(x: Tensor, where: Layout) -> list[Tensor]:
    """Lay the tokens of ``x [1, H, T, D]`` out as one ``[sequences, H, length, D]`` for each group."""
    filled = _Take.apply(x[0].transpose(0, 1), where.rows, where.places, None)
    edges = [0, *accumulate(group.sequences * group.length for group in where.groups)]
    return [
        filled[begin:end].view(group.sequences, group.length, *filled.shape[1:]).transpose(1, 2)
        for group, (begin, end) in zip(where.groups, pairwise(edges), strict=True)
    ]


def gather(parts: list[Tensor], where: Layout) -> Tensor:
    """Bring the outputs of the groups back into the row's order: ``[1, T, H, D]``."""
    filled = torch.cat([part.transpose(1, 2).flatten(0, 1) for part in parts])
    return _Take.apply(filled, where.places, where.rows, where.fillers)[None]


class _Take(torch.autograd.Function):
    """Rows of ``x`` by index. Every token has exactly one place, so the gradient too is a selection of rows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, back: Tensor, fillers: Tensor | None) -> Tensor:
        ctx.back, ctx.fillers = back, fillers
        return x.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        x = grad.index_select(0, ctx.back)
        return (x if ctx.fillers is None else x.index_fill_(0, ctx.fillers, 0)), None, None, None
