# SPDX-License-Identifier: Apache-2.0
"""Log-probability of one token a row of logits, and its gradient in their place, without a wider copy of them.

What it is in PyTorch stands where it is called: ``train/losses/linear_log_probs.py``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import native


def score(
    logits: Tensor,
    targets: Tensor,
    gradient: bool,
    flow: Tensor | None = None,
    entropy: Tensor | None = None,
    correct: Tensor | None = None,
) -> Tensor | None:
    """Score ``targets`` ``[c]`` under ``logits`` ``[c, V]``.

    Args:
        logits: With ``gradient`` they become d log p / d logits, times ``flow``.
        targets: Token ids in [0, V).
        gradient: Whether it is wanted.
        flow: [c] float32, default 1.
        entropy: [c] float32 that is filled with -sum p log p.
        correct: [c] bool that is filled: whether no other token is as probable as the target, or comes after it.

    Returns:
        [c] float32; ``None`` where the kernel does not take these, and nothing has changed.
    """
    rows = [one for one in (flow, entropy) if one is not None]
    alike = logits.is_contiguous() and targets.dtype == torch.int64 and all(x.dtype == torch.float32 for x in rows)
    if not alike or not logits.numel() or not native.takes(logits):
        return None
    out = torch.empty(len(logits), dtype=torch.float32)
    targets, flow = targets.contiguous(), None if flow is None else flow.contiguous()
    native.call("log_prob", logits.dtype, out, entropy, correct, logits, targets, flow, *logits.shape, int(gradient))
    return out
