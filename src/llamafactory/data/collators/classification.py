# SPDX-License-Identifier: Apache-2.0
"""Batches of texts with their classes, on top of a collator of single sequences."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from .padded import IGNORED


class ClassificationCollator:
    """Adds what a classifier shall say of each sequence.

    Args:
        single: Padding-free or padded collator of sequences.

    Attributes:
        numbers: The number of each class by its name.
        several: A sequence may be of several classes.
    """

    def __init__(self, single: Callable[[Sequence[dict[str, Any]]], dict[str, Any]]) -> None:
        self.single = single
        self.numbers: Mapping[str, int] = {}
        self.several = False

    def __call__(self, features: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Collate to what ``single`` makes of S sequences, and ``targets`` and ``real``.

        Returns:
            ``targets``: [S] int64, or of several classes or numbers [S, K] float32; ``real``: [S] bool, False in a row
            that only fills a batch.
        """
        real = [any(label != IGNORED for label in one["labels"]) for one in features for _ in one["seq_lens"]]
        classes = [some for one in features for some in one["classes"]]
        numbers = [some for one in features for some in one["targets"]]
        kept = [{name: one[name] for name in one if name not in ("classes", "targets")} for one in features]
        return {**self.single(kept), "targets": self._targets(classes, numbers), "real": torch.tensor(real)}

    def _targets(self, classes: list[list[str]], numbers: list[list[float]]) -> torch.Tensor:
        if any(numbers):
            return torch.tensor(numbers, dtype=torch.float32)
        if not self.several:
            return torch.tensor([self.numbers[some[0]] for some in classes])
        marked = torch.zeros(len(classes), len(self.numbers))
        for row, some in zip(marked, classes, strict=True):
            row[[self.numbers[name] for name in some]] = 1
        return marked
