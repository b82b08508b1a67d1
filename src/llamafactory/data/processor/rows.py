# SPDX-License-Identifier: Apache-2.0
"""From the segments of one sequence to the row that trains on it."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import replace
from typing import Any

from ..messages import Message, Segment
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
    row = {"input_ids": ids, "labels": labels, "seq_lens": [len(ids)], "weights": weights}
    return Row(row | {"media": [media_in(segments)]}, trained)


def ids_of(segments: Sequence[Segment]) -> list[int]:
    """The tokens of a sequence."""
    return [token for segment in segments for token in segment.ids]


def media_in(segments: Sequence[Segment]) -> list[dict[str, Any]]:
    """The media of a sequence as the column ``media`` holds them."""
    return [
        {"type": one.type, "source": one.source, "tokens": len(segment.ids), "place": one.place}
        for segment in segments
        if (one := segment.medium) is not None
    ]


def is_trained(message: Message, default: float = 1.0) -> bool:
    """Whether some of an answer is trained; ``default`` is the weight of one that has none of its own."""
    weight = default if message.weight is None else message.weight
    calls = weight if message.call_weight == "as the text" else message.call_weight
    return weight > 0 or (default if calls is None else calls) > 0


def without(messages: Sequence[Message], places: Container[int]) -> tuple[Message, ...]:
    """The same messages, but those at some places are not trained."""
    return tuple(
        replace(message, weight=0.0, call_weight="as the text") if place in places else message
        for place, message in enumerate(messages)
    )


def sequence_rows(sequences: Sequence[Sequence[Segment]]) -> list[Row]:
    """The rows of those sequences that have a trained token."""
    return [row for segments in sequences if (row := sequence_row(segments)) is not None]
