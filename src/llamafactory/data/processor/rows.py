# SPDX-License-Identifier: Apache-2.0
"""From the segments of one sequence to the row that trains on it."""

from __future__ import annotations

from collections.abc import Sequence

from ..messages import Segment
from .base import IGNORED, Row


def sequence_row(segments: Sequence[Segment]) -> Row | None:
    """A row of one sequence; ``None`` if none of its tokens would be trained.

    The label of the first token is -100: nothing stands before it that could predict it.
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
        return None
    weighted = any(segment.weight not in (0, 1) for segment in segments)
    weights = [segment.weight for segment in segments for _ in segment.ids] if weighted else None
    return Row({"input_ids": ids, "labels": labels, "seq_lens": [len(ids)], "weights": weights}, trained)


def sequence_rows(sequences: Sequence[Sequence[Segment]]) -> list[Row]:
    """The rows of those sequences that have a trained token."""
    return [row for segments in sequences if (row := sequence_row(segments)) is not None]
