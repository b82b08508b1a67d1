# SPDX-License-Identifier: Apache-2.0
"""Losses of classifiers, one number a row, as transformers' sequence classification defines them."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def single_label(logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy, ``-log softmax(z)_y``; smoothed: of (1 - e) y + e / K.

    Args:
        logits: z, [S, K].
        targets: y, [S] numbers of classes.
        smoothing: e.
    """
    return F.cross_entropy(logits, targets, reduction="none", label_smoothing=smoothing)


def multi_label(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy, a mean over classes: ``-1/K sum_k y_k log s(z_k) + (1 - y_k) log s(-z_k)``.

    Args:
        logits: z, [S, K].
        targets: y, [S, K], 1 = the row is of that class.
    """
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(-1)


def regression(logits: Tensor, targets: Tensor) -> Tensor:
    """Squared error, a mean over numbers: ``1/K sum_k (z_k - y_k)^2``.

    Args:
        logits: z, [S, K].
        targets: y, [S, K].
    """
    return ((logits - targets) ** 2).mean(-1)
