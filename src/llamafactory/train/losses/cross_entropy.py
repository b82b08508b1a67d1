# SPDX-License-Identifier: Apache-2.0
"""Weighted cross-entropy over the trained tokens of a whole optimizer step."""

from __future__ import annotations

from torch import Tensor


def cross_entropy(log_probs: Tensor, weights: Tensor, count: Tensor | float) -> Tensor:
    """Return ``-sum_i weights_i * log p_i / count``, this micro-batch's share of the step's loss.

    Args:
        log_probs: [N] log-probabilities of the trained tokens of one micro-batch.
        weights: [N] weight of each token.
        count: Trained tokens (weight not 0) of the global step, over all ranks and micro-batches; so that the sum of
            all shares is one mean, however the step is cut up.
    """
    return -(log_probs * weights).sum() / count
