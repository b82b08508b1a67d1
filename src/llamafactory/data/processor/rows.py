# SPDX-License-Identifier: Apache-2.0
"""From segments to the feature columns of a row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..messages import Segment
from .base import IGNORED, Tally


class RowWriter:
    """Collects rows ``input_ids, labels, seq_lens, weights, sample``; each row is one sequence."""

    def __init__(self) -> None:
        names = ("input_ids", "labels", "seq_lens", "weights", "sample")
        self.columns: dict[str, list[Any]] = {name: [] for name in names}

    def write(self, segments: Sequence[Segment], sample: int, tally: Tally) -> bool:
        """Add a row, unless none of its tokens would be trained.

        The label of the first token is -100: nothing stands before it that could predict it.

        Returns:
            Whether the row was added.
        """
        ids: list[int] = []
        labels: list[int] = []
        for segment in segments:
            ids += segment.ids
            if segment.weight > 0:
                labels += segment.ids
            else:
                labels += [IGNORED] * len(segment.ids)
        if labels:
            labels[0] = IGNORED
        trained = len(labels) - labels.count(IGNORED)
        if not trained:
            return False
        weighted = any(segment.weight not in (0, 1) for segment in segments)
        weights = [segment.weight for segment in segments for _ in segment.ids] if weighted else None
        columns = self.columns
        columns["input_ids"].append(ids)
        columns["labels"].append(labels)
        columns["seq_lens"].append([len(ids)])
        columns["weights"].append(weights)
        columns["sample"].append(sample)
        tally.trained += trained
        tally.tokens_out += len(ids)
        tally.weighted += weighted
        return True
