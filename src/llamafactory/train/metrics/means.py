# SPDX-License-Identifier: Apache-2.0
"""Which token of a batch belongs to which sequence, and the means over items that are logged."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def count_sequences(batch: dict[str, Any]) -> int:
    """Return how many sequences a batch holds, padded or not."""
    return len(batch["cu_seqlens"]) - 1 if "cu_seqlens" in batch else len(batch["labels"])


def sequence_numbers(positions: Tensor, batch: dict[str, Any]) -> Tensor:
    """Return [N] the sequence of each token, given ``positions`` [N] in the flattened labels."""
    if "cu_seqlens" in batch:
        return torch.bucketize(positions, batch["cu_seqlens"][1:], right=True)
    return positions // batch["labels"].shape[1]


def means(sums: dict[str, float], items: float) -> dict[str, float]:
    """Return each sum over ``items``, or over the sum named ``<name>:items`` where there is one.

    What has items of its own and none of them has no mean.
    """
    counts = {name: sums.get(f"{name}:items", max(items, 1)) for name in sums if not name.endswith(":items")}
    return {name: sums[name] / count for name, count in counts.items() if count}


class Means:
    """Running means of sums over items, kept on the device until a log is due."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._items = 0

    def add(self, sums: dict[str, Tensor], items: int) -> None:
        """Add sums over ``items`` items."""
        self._items += items
        for name, value in sums.items():
            value = value.detach().double()
            self._sums[name] = self._sums[name] + value if name in self._sums else value

    def take(self) -> dict[str, float]:
        """Return the means over all ranks since the last call; all ranks call this together."""
        if not self._sums:
            return {}
        names = sorted(self._sums)
        values = torch.stack([self._sums[name] for name in names])
        values = torch.cat([values, values.new_tensor([self._items])])
        if dist.is_initialized():
            dist.all_reduce(values)
        self._sums, self._items = {}, 0
        *totals, items = values.tolist()
        return means(dict(zip(names, totals, strict=True)), items)
