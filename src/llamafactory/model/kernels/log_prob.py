# SPDX-License-Identifier: Apache-2.0
"""Log-probability of one token a row of logits, and its gradient in their place, without a wider copy of them.

What it is in PyTorch stands where it is called: ``train/losses/linear_log_probs.py``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import native


def score(logits: Tensor, targets: Tensor, gradient: bool, flow: Tensor | None = None) -> Tensor | None:
    """Score ``targets`` ``[c]`` under ``logits`` ``[c, V]``.

    Args:
        logits: With ``gradient`` they become d log p / d logits, times ``flow``.
        targets: Token ids in [0, V).
        gradient: Whether it is wanted.
        flow: [c] float32, default 1.

    Returns:
        [c] float32; ``None`` where the kernel does not take these, and nothing has changed.
    """
    alike = logits.is_contiguous() and targets.dtype == torch.int64 and (flow is None or flow.dtype == torch.float32)
    if not alike or not logits.numel() or not native.takes(logits):
        return None
    out = torch.empty(len(logits), dtype=torch.float32)
    targets, flow = targets.contiguous(), None if flow is None else flow.contiguous()
    native.call("log_prob", logits.dtype, out, logits, targets, flow, *logits.shape, int(gradient))
    return out
