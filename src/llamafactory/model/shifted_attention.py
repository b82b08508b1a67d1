# SPDX-License-Identifier: Apache-2.0
"""Shifted short attention of LongLoRA (Chen et al. 2023, arXiv:2309.12307, section 3.2), for training alone.

A sequence is cut into groups of G tokens, a quarter of the context, and the first half of the heads attends inside
them; the other half attends inside groups that lie G / 2 further on, so that what is known passes from group to group.
A model that is not in training attends to everything.

The paper's code rolls the tokens of the second half around the end of the row, by which the last tokens and the first
share a group; here these are groups of their own (the paper's variant that lets nothing leak, appendix B.3). Groups
are counted from the start of each packed sequence, so that one is trained in a pack as it is alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise

import torch
from torch import Tensor


@lru_cache(maxsize=64)
def group_bounds(bounds: tuple[int, ...], group: int, first: int) -> Tensor:
    """Cut sequences into groups.

    Args:
        bounds: Of the sequences ``[S+1]``.
        group: Tokens of a group; the last of a sequence may have fewer.
        first: Tokens of the first group of each sequence.

    Returns:
        Bounds of the groups, int32, on the CPU.
    """
    inside = [place for begin, end in pairwise(bounds) for place in (begin, *range(begin + first, end, group))]
    return torch.tensor([*inside, bounds[-1]], dtype=torch.int32)


def halves(
    q: Tensor, k: Tensor, v: Tensor, sinks: Tensor | None
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor | None]]:
    """Split the heads of ``q [1, H, T, D]``, ``k`` and ``v [1, KV, T, D]``, ``sinks [H]`` in two.

    Of an odd number of heads the second half has one more; where key heads do not part, each is given its own.
    """
    half = q.shape[1] // 2
    if k.shape[1] % 2:
        groups = q.shape[1] // k.shape[1]
        k, v = (x.repeat_interleave(groups, dim=1) for x in (k, v))
    middle = half * k.shape[1] // q.shape[1]
    for mine, keys in ((slice(half), slice(middle)), (slice(half, None), slice(middle, None))):
        yield q[:, mine], k[:, keys], v[:, keys], None if sinks is None else sinks[mine]
