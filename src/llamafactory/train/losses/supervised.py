# SPDX-License-Identifier: Apache-2.0
"""Losses of stage sft beside cross-entropy: sums over trained tokens, to be divided by the tokens of the step.

p_t is the model's probability of trained token t, w_t its weight, sg(.) has no gradient.

- DFT (Wu et al. 2025, arXiv:2508.05629):  sum_t w_t * -sg(p_t) log p_t
- ASFT (Zhu et al. 2025, arXiv:2509.23753):  DFT + alpha * sum_t w_t KL(base_t || p_t), in the direction of the authors'
  code, over the whole vocabulary; the base is the model before training.
- EAFT (Diao et al. 2026, arXiv:2601.02151):  sum_t w_t * -sg(H_t / ln K)^alpha log p_t, where H_t is the entropy of the
  K = 20 most probable tokens among themselves, so that the weight is in [0, 1].
"""

from __future__ import annotations

import math

from torch import Tensor

TOP = 20  # EAFT's K


def dft(log_probs: Tensor, weights: Tensor) -> Tensor:
    """Return the DFT loss of ``log_probs`` [N] with ``weights`` [N]."""
    return -(log_probs.detach().exp() * log_probs * weights).sum()


def asft(log_probs: Tensor, divergence: Tensor, weights: Tensor, alpha: float) -> Tensor:
    """Return the ASFT loss.

    Args:
        log_probs: [N] log-probabilities of the trained tokens.
        divergence: [N] KL(base || model) at each of them, in nats.
        weights: [N] weight of each token.
        alpha: Weight of the pull to the base.
    """
    return dft(log_probs, weights) + alpha * (divergence * weights).sum()


def eaft(log_probs: Tensor, top_entropy: Tensor, weights: Tensor, alpha: float, top: int = TOP) -> Tensor:
    """Return the EAFT loss.

    Args:
        log_probs: [N] log-probabilities of the trained tokens.
        top_entropy: [N] entropy, in nats, of the ``top`` most probable tokens among themselves.
        weights: [N] weight of each token.
        alpha: Exponent of the normalised entropy; 0 is cross-entropy.
        top: K.
    """
    gate = (top_entropy.detach() / math.log(top)).clamp(0, 1) ** alpha
    return -(gate * log_probs * weights).sum()
