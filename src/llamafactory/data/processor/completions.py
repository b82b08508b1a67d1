# SPDX-License-Identifier: Apache-2.0
"""Features with several answers to one prompt: a row holds one isolated sequence for each answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ...extras.errors import ConfigError
from ..prepare.overlong import count, fit_answers
from .base import IGNORED, Tally

if TYPE_CHECKING:
    from ...hparams.data_args import DataArguments
    from ..messages import Message, Sample, Segment
    from ..template.base import Template


def encode_answers(
    samples: Sequence[Sample], answers: Sequence[Sequence[tuple[Message, ...]]], template: Template
) -> list[list[list[Segment]]]:
    """Encode each sample's messages with each of its answers, all in one call; only the answers are trained."""
    complete = [
        replace(sample, messages=_untrained(sample.messages) + _plain(answer))
        for sample, some in zip(samples, answers, strict=True)
        for answer in some
    ]
    encoded = iter(template.encode_batch(complete))
    return [[next(encoded) for _ in some] for some in answers]


class AnswerWriter:
    """Collects rows ``input_ids, labels, seq_lens, weights, sample`` with as many sequences as there are answers."""

    def __init__(self, args: DataArguments) -> None:
        self.args = args
        names = ("input_ids", "labels", "seq_lens", "weights", "sample")
        self.columns: dict[str, list[Any]] = {name: [] for name in names}
        self.tally = Tally()

    def write(self, sequences: list[list[Segment]], sample: Sample, number: int, differ: bool) -> bool:
        """Add the row of one sample, unless the rule for long samples leaves it out.

        Args:
            sequences: One for each answer.
            sample: Where they come from; its messages are the prompt.
            number: Of the sample in its batch.
            differ: Answers that became alike by cutting teach nothing, so the row is left out.

        Returns:
            Whether the row was added.
        """
        length = max(map(count, sequences))
        rows, lost = fit_answers(sequences, sample.messages, self.args.cutoff_len, self.args.overlong, sample.origin)
        ids = [[token for segment in row for token in segment.ids] for row in rows]
        labels = [_labels(row) for row in rows]
        usable = bool(rows) and all(any(label != IGNORED for label in row) for row in labels)
        written = usable and not (differ and ids[0] == ids[1])
        self.tally.settle(length, int(written), lost, too_long=not rows)
        if written:
            columns, tally = self.columns, self.tally
            columns["input_ids"].append([token for row in ids for token in row])
            columns["labels"].append([label for row in labels for label in row])
            columns["seq_lens"].append([len(row) for row in ids])
            columns["weights"].append(None)
            columns["sample"].append(number)
            tally.tokens_out += sum(map(len, ids))
            tally.trained += sum(label != IGNORED for row in labels for label in row)
        return written


def require_answer(answer: tuple[Message, ...], what: str, sample: Sample) -> None:
    """Raise for an answer that says nothing."""
    if not any(message.role == "assistant" and (message.text.strip() or message.tool_calls) for message in answer):
        raise ConfigError(f"{sample.origin}: {what} is empty")


def _labels(segments: list[Segment]) -> list[int]:
    labels: list[int] = []
    for segment in segments:
        labels += segment.ids if segment.weight > 0 else [IGNORED] * len(segment.ids)
    return [IGNORED, *labels[1:]]


def _untrained(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    return tuple(replace(message, weight=0.0) for message in messages)


def _plain(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """Answers are compared as a whole: weights of their own are not looked at."""
    return tuple(replace(message, weight=None) for message in messages)
