# SPDX-License-Identifier: Apache-2.0
"""The training loss of each data set apart ("channel loss"), packed or not."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ..token_scores import TokenScores
from .means import sequence_numbers


class ChannelMeter:
    """Sums losses and trained tokens of each set, on the device until a log is due.

    Args:
        names: Of the sets, as the batches number them.
    """

    def __init__(self, names: list[str]) -> None:
        self.names = names
        self._sums: Tensor | None = None

    @torch.no_grad()
    def add(self, scores: TokenScores, channels: Tensor, inputs: dict[str, Any]) -> None:
        """Add a batch.

        Args:
            scores: Of its trained tokens.
            channels: [S] the set of each sequence.
            inputs: The batch.
        """
        mine = channels[sequence_numbers(scores.positions, inputs)]
        sums = scores.log_probs.new_zeros(2, len(self.names), dtype=torch.float64)
        sums[0].index_add_(0, mine, -(scores.weights * scores.log_probs).double())
        sums[1].index_add_(0, mine, (scores.weights != 0).double())
        self._sums = sums if self._sums is None else self._sums + sums

    def take(self) -> dict[str, float]:
        """Return ``loss/<set>``, the mean over trained tokens of all ranks since the last call, where there were any.

        All ranks call this together.
        """
        if self._sums is None:
            return {}
        if dist.is_initialized():
            dist.all_reduce(self._sums)
        losses, tokens = self._sums.tolist()
        self._sums = None
        return {
            f"loss/{name}": loss / count for name, loss, count in zip(self.names, losses, tokens, strict=True) if count
        }
