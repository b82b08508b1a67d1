# SPDX-License-Identifier: Apache-2.0
"""How far a model's distribution p is from a frozen one r over the same vocabulary, and the gradient for its logits z.

The generalized Jensen-Shannon divergence of Agarwal et al. 2024, "On-Policy Distillation of Language Models":

    m  =  beta r + (1 - beta) p
    D  =  beta KL(r || m) + (1 - beta) KL(p || m)        0 < beta < 1
    D  =  KL(r || p)                                     beta = 0, forward
    D  =  KL(p || r)                                     beta = 1, reverse

Near its ends the first line is not the others but vanishes like beta KL(r || p) and (1 - beta) KL(p || r). As p is
softmax(z) and dD/dp_v = g_v + const,

    dD / dz  =  p (g - p . g)       g = (1 - beta) (log p - log m),  for the reverse  log p - log r
    dD / dz  =  p - r               forward
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def divergence(log_r: Tensor, log_p: Tensor, beta: float = 0.0) -> Tensor:
    """Return D [c], in nats, of ``log_r`` and ``log_p`` [c, V]."""
    if beta == 0.0:
        return (log_r.exp() * (log_r - log_p)).sum(-1)
    if beta == 1.0:
        return (log_p.exp() * (log_p - log_r)).sum(-1)
    log_m = _log_mixture(log_r, log_p, beta)
    of_r, of_p = (log_r.exp() * (log_r - log_m)).sum(-1), (log_p.exp() * (log_p - log_m)).sum(-1)
    return beta * of_r + (1 - beta) * of_p


def divergence_gradient(log_r: Tensor, log_p: Tensor, beta: float = 0.0) -> Tensor:
    """Return dD / dz [c, V]; ``log_r`` is overwritten."""
    p = log_p.exp()
    if beta == 0.0:
        return log_r.exp_().neg_().add_(p)
    slope = log_p - log_r if beta == 1.0 else (log_p - _log_mixture(log_r, log_p, beta)).mul_(1 - beta)
    return slope.sub_((p * slope).sum(-1, keepdim=True)).mul_(p)


def _log_mixture(log_r: Tensor, log_p: Tensor, beta: float) -> Tensor:
    return torch.logaddexp(log_r + math.log(beta), log_p + math.log1p(-beta))


def among(log_p: Tensor, size: int) -> Tensor:
    """Return the log-probabilities [c, size] of the first ``size`` tokens among themselves."""
    return log_p if log_p.shape[-1] == size else log_p[..., :size].log_softmax(-1)
