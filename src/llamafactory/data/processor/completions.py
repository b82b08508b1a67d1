# SPDX-License-Identifier: Apache-2.0
"""Features with several completions of one prompt: a row holds one isolated sequence for each completion."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ...extras.errors import ConfigError
from ..messages import Message, Segment
from ..prepare.overlong import count, fit_completions
from .base import Outcome, Processor, Row
from .rows import sequence_row, without

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ...hparams.data_args import DataArguments
    from ..messages import Sample
    from ..template.base import Template

Completion = tuple[Message, ...]


class CompletionsProcessor(Processor[list[list[Segment]]]):
    """Only the completions are trained; all of a sample's follow the same prompt.

    Attributes:
        must_differ: Two completions that became alike by cutting teach nothing, so the row is left out.
    """

    must_differ = False

    def prompt(self, sample: Sample) -> tuple[Message, ...]:
        """What stands before the completions."""
        return sample.messages

    @abstractmethod
    def completions(self, samples: Sequence[Sample]) -> Sequence[Sequence[Completion]]:
        """The completions of each sample. Raises ConfigError where one is missing or says nothing."""

    @abstractmethod
    def extra(self, sample: Sample) -> dict[str, Any]:
        """Columns of a row besides its sequences."""

    def tokenize(
        self, samples: Sequence[Sample], template: Template, tokenizer: PreTrainedTokenizerBase, args: DataArguments
    ) -> list[list[list[Segment]]]:
        """The prompt with each completion, all of a batch in one call."""
        completions = self.completions(samples)
        whole = [
            replace(sample, messages=_weighted(self.prompt(sample), 0.0) + _weighted(completion, None))
            for sample, some in zip(samples, completions, strict=True)
            for completion in some
        ]
        if args.thoughts != "train":
            whole = [replace(one, messages=without(one.messages, template.rewritten(one))) for one in whole]
        encoded = iter(template.encode_batch(whole))
        return [[next(encoded) for _ in some] for some in completions]

    def fit(self, sample: Sample, tokens: list[list[Segment]], args: DataArguments) -> Outcome:
        """The prompt gives way before the completions do; the row is there with all of them or not at all."""
        prompt = self.prompt(sample)
        sequences, lost = fit_completions(tokens, prompt, args.cutoff_len, args.overlong, sample.origin)
        rows = self._join([sequence_row(segments) for segments in sequences], sample)
        return Outcome(rows, max(map(count, tokens)), lost, too_long=not sequences)

    def _join(self, sequences: list[Row | None], sample: Sample) -> list[Row]:
        """The one row of some sequences, or none where a sequence has no trained token."""
        usable = [row for row in sequences if row is not None]
        if not usable or len(usable) < len(sequences):
            return []
        parts = [row.features for row in usable]
        if self.must_differ and parts[0]["input_ids"] == parts[1]["input_ids"]:
            return []
        names = ("input_ids", "labels", "seq_lens", "media")
        joined = {name: [item for part in parts for item in part[name]] for name in names}
        return [Row({**joined, "weights": None, **self.extra(sample)}, sum(row.trained for row in usable))]


def require_completion(completion: Completion, what: str, sample: Sample) -> None:
    """Raise for a completion that says nothing."""
    if not any(message.role == "assistant" and (message.text.strip() or message.tool_calls) for message in completion):
        raise ConfigError(f"{sample.origin}: {what} is empty")


def _weighted(messages: tuple[Message, ...], weight: float | None) -> tuple[Message, ...]:
    """Completions are compared as a whole: weights of their messages' own are not looked at."""
    return tuple(replace(message, weight=weight, call_weight="as the text") for message in messages)
