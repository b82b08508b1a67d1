# SPDX-License-Identifier: Apache-2.0
"""Losses of rerankers, of the scores of a query's documents."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def pointwise(scores: Tensor, grades: Tensor) -> Tensor:
    """Binary cross-entropy of each document: ``-g log s(z) - (1 - g) log s(-z)``.

    Args:
        scores: z, [S].
        grades: g, [S], 0 to 1.

    Returns:
        [S]
    """
    return F.binary_cross_entropy_with_logits(scores, grades, reduction="none")


def listwise(scores: Tensor, grades: Tensor, owners: Tensor) -> Tensor:
    """ListNet (Cao et al. 2007, top one) of each query, with grades that are made to sum to 1.

    ``-sum_d g_d / (sum_d g_d) log softmax(z)_d``: the labels are shares, so that 0 can be reached with one relevant
    document; a query without any has the loss 0.

    Args:
        scores: z, [S] of all queries.
        grades: g, [S], not negative.
        owners: [S], the number of the query of each document, from 0.

    Returns:
        [Q]
    """
    count = int(owners.max()) + 1
    highest = scores.new_full((count,), -torch.inf).scatter_reduce(0, owners, scores.detach(), "amax")
    shifted = scores - highest[owners]
    log_sum = scores.new_zeros(count).index_add(0, owners, shifted.exp()).log()
    whole = scores.new_zeros(count).index_add(0, owners, grades)
    shares = grades / whole.clamp(min=torch.finfo(grades.dtype).tiny)[owners]
    return scores.new_zeros(count).index_add(0, owners, shares * (log_sum[owners] - shifted))
