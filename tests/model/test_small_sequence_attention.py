# SPDX-License-Identifier: Apache-2.0
"""The CPU backward for short sequences: exact in float32, no further from the truth than SDPA in bfloat16."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from llamafactory.model import small_sequence_attention


def results(function, dtype: torch.dtype, length: int, heads: int, spread: float):
    """Output and gradients of q, k, v drawn in bfloat16, so that every dtype computes the same problem."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(1, heads, length, 32), (1, 2, length, 32), (1, 2, length, 32), (1, heads, length, 32)]
    *inputs, d_out = (torch.randn(shape, generator=generator).mul(spread).bfloat16().to(dtype) for shape in shapes)
    inputs = [x.requires_grad_() for x in inputs]
    out = function(*inputs)
    return [out, *torch.autograd.grad(out, inputs, d_out)]


def sdpa(q, k, v):
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.2, enable_gqa=True)


def ours(q, k, v):
    return small_sequence_attention.causal_attention(q, k, v, 0.2)


@pytest.mark.parametrize("length", [2, 33, 130])
@pytest.mark.parametrize("heads", [2, 6])
def test_equal_to_sdpa_in_float32(length, heads):
    mine, theirs = (results(function, torch.float32, length, heads, 1.0) for function in (ours, sdpa))
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("spread", [1.0, 3.0])  # 3: scores of about 30, as real models have
def test_as_precise_as_sdpa_in_bfloat16(spread):
    truth = results(sdpa, torch.float64, 100, 6, spread)
    error = [
        [((one.double() - other).norm() / other.norm()).item() for one, other in zip(found, truth, strict=True)]
        for found in (results(function, torch.bfloat16, 100, 6, spread) for function in (ours, sdpa))
    ]
    assert all(mine < 1.1 * theirs for mine, theirs in zip(*error, strict=True)), error


def test_where_it_is_used():
    q = torch.zeros(1, 4, 100, 8, dtype=torch.bfloat16)
    assert small_sequence_attention.pays_off(q)
    assert not small_sequence_attention.pays_off(q.float())
    assert not small_sequence_attention.pays_off(torch.zeros(1, 4, 1000, 8, dtype=torch.bfloat16))
    with torch.no_grad():  # a reference takes the way of the policy
        assert small_sequence_attention.pays_off(q)
