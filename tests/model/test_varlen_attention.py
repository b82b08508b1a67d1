# SPDX-License-Identifier: Apache-2.0
"""Grouped short sequences: every token in one place, and attention as if each sequence had been alone."""

from __future__ import annotations

from itertools import accumulate, pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from llamafactory.model import attention, varlen_attention

LENGTHS = [40, 37, 3, 200, 64, 9, 1]  # two groups, one long sequence, one that is alone


@settings(deadline=None, max_examples=200)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=12), st.integers(1, 25))
def test_every_token_has_one_place(lengths, longest):
    bounds = tuple(accumulate(lengths, initial=0))
    where = varlen_attention.layout(bounds, longest)
    spans = [(a, b) for a, b in pairwise(bounds) if b > a]
    if where is None:
        short = sorted(b - a for a, b in spans if b - a <= longest)
        assert all(2 * small < large for small, large in pairwise(short))
        return
    assert torch.equal(where.rows[where.places], torch.arange(bounds[-1]))
    assert sorted([*where.places.tolist(), *where.fillers.tolist()]) == list(range(len(where.rows)))
    begin = 0
    for group in where.groups:
        rows = where.rows[begin : begin + group.sequences * group.length].view(group.sequences, group.length).tolist()
        assert group.sequences == 1 or group.length <= longest
        for row in rows:
            (length,) = (b - a for a, b in spans if a == row[0])
            assert row[:length] == list(range(row[0], row[0] + length)) and set(row[length:]) <= {row[0]}
            assert 2 * length >= group.length
        begin += group.sequences * group.length


def packed_results(function, inputs, dtype):
    inputs = [x.to(dtype).requires_grad_() for x in inputs[:3]] + [inputs[3].to(dtype)]
    out = function(*inputs[:3])
    return [out, *torch.autograd.grad(out, inputs[:3], inputs[3])]


def draw(heads: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    total = sum(LENGTHS)
    shapes = [(1, heads, total, 16), (1, 2, total, 16), (1, 2, total, 16), (1, total, heads, 16)]
    return [torch.randn(shape, generator=generator).bfloat16() for shape in shapes]


def isolated(q, k, v):
    bounds = torch.tensor([0, *accumulate(LENGTHS)], dtype=torch.int32)
    return attention.isolated_attention(nn.Module(), q, k, v, None, cu_seqlens=bounds, max_seqlen=200)[0]


def each_alone(q, k, v):
    bounds = [0, *accumulate(LENGTHS)]
    wide = [x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (q, k, v)]
    parts = [
        nn.functional.scaled_dot_product_attention(*(x[:, :, a:b] for x in wide), is_causal=True)
        for a, b in pairwise(bounds)
    ]
    return torch.cat(parts, dim=2).transpose(1, 2)


@pytest.mark.parametrize("heads", [2, 6])
def test_as_precise_as_each_sequence_alone(heads):
    inputs = draw(heads)
    truth = packed_results(each_alone, inputs, torch.float64)
    mine, theirs = (packed_results(function, inputs, torch.bfloat16) for function in (isolated, each_alone))
    for exact, one, other in zip(truth, mine, theirs, strict=True):
        errors = [((found.double() - exact).norm() / exact.norm()).item() for found in (one, other)]
        assert errors[0] < max(1.1 * errors[1], 0.007) < 0.02, errors


def test_groups_are_used_and_keep_sequences_apart(monkeypatch):
    used = []
    monkeypatch.setattr(varlen_attention, "gather", lambda *a, f=varlen_attention.gather: used.append(1) or f(*a))
    inputs = draw(6)
    before = packed_results(isolated, inputs, torch.bfloat16)
    changed = [x.clone() for x in inputs]
    for x in changed[:3]:
        x[:, :, 40:77] += 1  # the second sequence
    after = packed_results(isolated, changed, torch.bfloat16)
    assert len(used) == 2
    for axis, one, other in zip((1, 2, 2, 2), before, after, strict=True):
        for part in (slice(0, 40), slice(77, None)):
            index = (slice(None),) * axis + (part,)
            assert torch.equal(one[index], other[index])
        assert not torch.equal(one, other)
