# SPDX-License-Identifier: Apache-2.0
"""Losses over single judged completions (KTO) and over scores of pairs (Bradley-Terry)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def kl_estimate(ratio_sum: Tensor, count: Tensor | float) -> Tensor:
    """KTO's reference point (Ethayarajh et al. 2024, sec. 4.1): max(0, mean ratio of mismatches), no gradient.

    Args:
        ratio_sum: Sum of ``log pi(y'|x) - log ref(y'|x)`` over prompts x with completions y' of other prompts.
        count: How many there are.
    """
    return (ratio_sum.detach() / count).clamp(min=0)


def kto(
    ratio: Tensor,
    desirable: Tensor,
    kl: Tensor,
    beta: float,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> Tensor:
    """KTO (Ethayarajh et al. 2024, eq. 7 and 8): ``w_d (1 - s(beta (h - z)))`` or ``w_u (1 - s(beta (z - h)))``.

    Args:
        ratio: h = log pi(y|x) - log ref(y|x), [B].
        desirable: Whether the completion is wanted, bool [B].
        kl: z, a scalar from :func:`kl_estimate`.
        beta: Strength of the pull to the reference.
        desirable_weight: w_d.
        undesirable_weight: w_u.

    Returns:
        [B]
    """
    wanted = desirable_weight * (1 - torch.sigmoid(beta * (ratio - kl)))
    unwanted = undesirable_weight * (1 - torch.sigmoid(beta * (kl - ratio)))
    return torch.where(desirable, wanted, unwanted)


def bradley_terry(chosen: Tensor, rejected: Tensor, margin: Tensor | float = 0.0, centering: float = 0.0) -> Tensor:
    """Loss of a reward model (Ouyang et al. 2022, eq. 1) with a margin m (Touvron et al. 2023, eq. 2) and a pull to 0.

    ``-log s(r_w - r_l - m) + c (r_w + r_l)^2``; the second term is from Eisenstein et al. 2023, eq. 2.

    Args:
        chosen: r_w [P].
        rejected: r_l [P].
        margin: m, [P] or a number.
        centering: c.

    Returns:
        [P]
    """
    return -F.logsigmoid(chosen - rejected - margin) + centering * (chosen + rejected) ** 2
