# SPDX-License-Identifier: Apache-2.0
"""Causal attention on a CPU in bfloat16: PyTorch's flash forward, a backward out of plain matrix products.

The flash backward of PyTorch's CPU kernel took 1.2 (4,096 tokens) to 4 times (100 tokens) as long.
With scores S = s q k^T and probabilities P = exp(S - L), L = logsumexp, the gradients are those of
FlashAttention (Dao et al. 2022, section 3.1), for some queries at a time:

    dv = P^T do,   dP = do v^T,   dS = P * (dP - delta) * s,   delta = rowsum(do * o),   dq = dS k,   dk = dS^T q.

A product of bfloat16 is summed in float32 but comes out rounded, and a score of 80 would be off by 0.25: a fifth of its
probability. So -L goes into the product, as three more columns of q (a bfloat16 each of what the one before it leaves)
beside three ones in k: what is rounded is log P, and P is off by at most |P log P| / 512, which is below 1 / 1,392.
In the same way -delta goes into dP.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from . import native

LONGEST = 4096  # tokens; the memory of a backward pass is 4 bytes x query heads x length x BLOCK
GROUPED = 160  # tokens: shorter sequences of a row are worth being filled up to a like length and computed together
BLOCK = 256  # queries at a time: those before a block need no keys of it


def applies(query: Tensor) -> bool:
    """Whether sequences of ``query [B, H, n, D]`` are candidates: bfloat16 on a CPU.

    Also without a gradient, where nothing is gained: a reference must round as the policy does, or the first margin of
    preference training is not 0.
    """
    return query.device.type == "cpu" and query.dtype == torch.bfloat16


def pays_off(query: Tensor) -> bool:
    """Whether :func:`causal_attention` is the faster way for ``query [B, H, n, D]``."""
    return applies(query) and query.shape[2] <= LONGEST


def causal_attention(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """``softmax(scale q k^T) v`` below the diagonal.

    Args:
        query: ``[B, H, n, D]``.
        key: ``[B, KV, n, D]``, ``KV`` divides ``H``.
        value: Like ``key``.
        scale: Factor on the scores.

    Returns:
        ``[B, H, n, D]``.
    """
    return _CausalAttention.apply(query, key, value, scale)


class _CausalAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        groups = q.shape[1] // k.shape[1]
        wide_k, wide_v = (x.repeat_interleave(groups, dim=1) if groups > 1 else x for x in (k, v))
        flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        out, logsumexp = flash(q, wide_k, wide_v, 0.0, True, scale=scale)
        ctx.save_for_backward(q, k, v, out, logsumexp)
        ctx.scale = scale
        return out

    @staticmethod
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q, k, v, out, logsumexp = ctx.saved_tensors
        batch, heads, n, width = q.shape
        shape = (batch * k.shape[1], heads // k.shape[1], n)  # query heads that share a key head lie side by side
        rest, exponent = math.frexp(ctx.scale)  # a power of two multiplies exactly; the rest is applied in float32
        logs = logsumexp.reshape(*shape, 1).float()
        delta = (d_out.float() * out).sum(-1).reshape(*shape, 1)
        flat_q = torch.cat([q.reshape(*shape, width) * 2.0**exponent, *_in_bfloat16(logs / -rest)], -1)
        flat_d = torch.cat([d_out.reshape(*shape, width), *_in_bfloat16(-delta)], -1)
        flat_k, flat_v = (x.reshape(shape[0], n, width) for x in (k, v))
        ones = q.new_ones(shape[0], n, 3)
        wide_k, wide_v = (torch.cat([x, ones], -1).transpose(1, 2) for x in (flat_k, flat_v))
        d_q = torch.empty(*shape, width, dtype=q.dtype)
        d_k, d_v = torch.zeros(2, *(flat_k.shape if n > BLOCK else (0,)))  # sums of several blocks
        for begin in range(0, n, BLOCK):
            end = min(begin + BLOCK, n)
            one_q, one_d = (x[:, :, begin:end].reshape(shape[0], -1, width + 3) for x in (flat_q, flat_d))
            p, d_s = (torch.bmm(a, b[:, :, :end]) for a, b in ((one_q, wide_k), (one_d, wide_v)))
            _finish(p, d_s, end - begin, begin, rest, ctx.scale)
            d_q[:, :, begin:end] = torch.bmm(d_s, flat_k[:, :end]).view(shape[0], shape[1], -1, width)
            # Of q as it was: the power of two is taken out of the sum again.
            to_k = torch.bmm(d_s.transpose(1, 2), one_q[..., :width]) * 2.0**-exponent
            to_v = torch.bmm(p.transpose(1, 2), one_d[..., :width])
            if n <= BLOCK:
                return d_q.view(q.shape), to_k.view(k.shape), to_v.view(v.shape), None
            d_k[:, :end] += to_k
            d_v[:, :end] += to_v
        return d_q.view(q.shape), d_k.to(k.dtype).view(k.shape), d_v.to(v.dtype).view(v.shape), None


def _in_bfloat16(x: Tensor) -> list[Tensor]:
    """Return three bfloat16 tensors whose sum is the float32 tensor ``x``."""
    parts = []
    for _ in range(3):
        parts.append(x.bfloat16())
        x = x - parts[-1].float()
    return parts


def _finish(logs: Tensor, d_p: Tensor, queries: int, ahead: int, scale: float, factor: float) -> None:
    """Make of ``logs`` (log P / scale) and ``d_p`` (dP - delta), ``[pairs, heads x queries, keys]``, P and dS in place.

    Query ``i`` of a block sees the keys up to ``i + ahead``.
    """
    if native.takes(logs, d_p):
        keys = logs.shape[-1]
        native.call(
            "attention_back",
            logs.dtype,
            logs,
            d_p,
            logs.numel() // (queries * keys),
            queries,
            keys,
            ahead,
            scale,
            factor,
        )
        return
    shape = (-1, queries, logs.shape[-1])
    p = logs.view(shape).float().mul_(scale).exp_().tril_(ahead)
    d_p.view(shape).copy_(d_p.view(shape).float().mul_(p).mul_(factor))
    logs.view(shape).copy_(p)
