# SPDX-License-Identifier: Apache-2.0
"""The CPU backward of attention: exact in float32, about as near to the truth as SDPA in bfloat16."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from llamafactory.model.kernels import causal_attention


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
    return causal_attention.causal_attention(q, k, v, 0.2)


@pytest.fixture(params=["compiled", "plain"])
def library(request, monkeypatch):
    """With the compiled kernel, and with what stands beside it."""
    if request.param == "plain":
        monkeypatch.setattr(causal_attention.native, "takes", lambda *tensors: False)


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("length", [2, 33, 300])
@pytest.mark.parametrize("heads", [2, 6])
def test_equal_to_sdpa_in_float32(length, heads):
    mine, theirs = (results(function, torch.float32, length, heads, 1.0) for function in (ours, sdpa))
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("spread", [1.0, 3.0])  # 3: scores of about 30, as real models have
def test_precision_in_bfloat16(spread):
    truth = results(sdpa, torch.float64, 100, 6, spread)
    error = [
        [((one.double() - other).norm() / other.norm()).item() for one, other in zip(found, truth, strict=True)]
        for found in (results(function, torch.bfloat16, 100, 6, spread) for function in (ours, sdpa))
    ]
    # dq and dk come of rounded logarithms of probabilities: 0.5 %, a cosine of 0.99999.
    assert all(mine < max(1.1 * theirs, 0.007) for mine, theirs in zip(*error, strict=True)), error


def test_where_it_is_used():
    q = torch.zeros(1, 4, 100, 8, dtype=torch.bfloat16)
    assert causal_attention.pays_off(q)
    assert not causal_attention.pays_off(q.float())
    assert not causal_attention.pays_off(torch.zeros(1, 1, 5000, 8, dtype=torch.bfloat16))
    with torch.no_grad():  # a reference takes the way of the policy
        assert causal_attention.pays_off(q)
