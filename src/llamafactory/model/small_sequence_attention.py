# SPDX-License-Identifier: Apache-2.0
"""Causal attention of short sequences on a CPU: PyTorch's flash forward, a backward out of plain matrix products.

The flash backward of PyTorch's CPU kernel is slow on short sequences in bfloat16, where it costs more than the matrix
products themselves. With scores S = s q k^T and probabilities P = exp(S - logsumexp), the gradients are those of
FlashAttention (Dao et al. 2022, section 3.1):

    dv = P^T do,   dP = do v^T,   dS = P * (dP - rowsum(do * o)) * s,   dq = dS k,   dk = dS^T q.

S and dP are made in float32: rounded to bfloat16, a score of 80 is off by 0.25, which is a fifth of its probability.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

LONGEST = 160  # tokens: 1.6x as fast as the flash kernel at 128, as fast at 200 (9 heads of 64, forward + backward)


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
        wide_k, wide_v = (x.repeat_interleave(groups, dim=1) for x in (k, v))
        flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        out, logsumexp = flash(q, wide_k, wide_v, 0.0, True, scale=scale)
        ctx.save_for_backward(q, k, v, out, logsumexp)
        ctx.scale = scale
        return out

    @staticmethod
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q, k, v, out, logsumexp = ctx.saved_tensors
        batch, heads, n, width = q.shape
        pairs = batch * k.shape[1]  # query heads that share a key head lie side by side
        shape = (pairs, heads // k.shape[1], n, n)
        flat_q, flat_d, flat_k, flat_v = (x.reshape(pairs, -1, width) for x in (q, d_out, k, v))
        scores = torch.bmm(flat_q.float(), flat_k.float().transpose(1, 2)).view(shape)
        p = scores.mul_(ctx.scale).sub_(logsumexp.reshape(*shape[:3], 1)).exp_().tril_()
        delta = (d_out.float() * out.float()).sum(-1).reshape(*shape[:3], 1)
        d_p = torch.bmm(flat_d.float(), flat_v.float().transpose(1, 2)).view(shape)
        d_s = d_p.sub_(delta).mul_(p).mul_(ctx.scale).to(q.dtype).view(pairs, -1, n)
        p = p.to(q.dtype).view(pairs, -1, n)
        d_q = torch.bmm(d_s, flat_k).view(q.shape)
        d_k = torch.bmm(d_s.transpose(1, 2), flat_q).view(k.shape)
        d_v = torch.bmm(p.transpose(1, 2), flat_d).view(v.shape)
        return d_q, d_k, d_v, None
