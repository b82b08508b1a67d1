# SPDX-License-Identifier: Apache-2.0
"""Features of labelled completions (KTO): a completion with its label, and a mismatched one of the same prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ...extras.errors import ConfigError
from .base import OF_HEADS
from .completions import Completion, CompletionsProcessor, require_completion

if TYPE_CHECKING:
    from ..messages import Message, Sample


class FeedbackProcessor(CompletionsProcessor):
    """A row is two sequences, the labelled one first, and ``desirable``: [1] or [0].

    The second is the prompt with the completion of the next sample of the batch: KTO estimates from such pairs how far
    the policy has gone from the reference.
    """

    name = "feedback"
    columns = (*CompletionsProcessor.columns, "desirable")
    unused = ("margin", "weights", *OF_HEADS)

    def prompt(self, sample: Sample) -> tuple[Message, ...]:
        """What stands before the completion: that in a column of its own, else the last turn."""
        return sample.messages[: _prompt(sample)]

    def completions(self, samples: Sequence[Sample]) -> list[tuple[Completion, Completion]]:
        """Raises ConfigError for a row that has no label or no completion."""
        own = [_completion(sample) for sample in samples]
        return list(zip(own, [*own[1:], *own[:1]], strict=True))

    def extra(self, sample: Sample) -> dict[str, Any]:
        """The label."""
        return {"desirable": [int(bool(sample.label))]}


def _prompt(sample: Sample) -> int:
    return sample.prompt or max(0, len(sample.messages) - 1)


def _completion(sample: Sample) -> Completion:
    if sample.label is None:
        raise ConfigError(f"{sample.origin}: no verdict; name the column kto_tag in dataset_info.json")
    completion = sample.messages[_prompt(sample) :]
    if not completion or completion[0].role != "assistant":
        raise ConfigError(f"{sample.origin}: the last turn is not an answer")
    require_completion(completion, "the answer", sample)
    return completion
