# SPDX-License-Identifier: Apache-2.0
"""Features for generation: the prompt before the last assistant turn, and that turn's text to compare with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from ...extras.errors import ConfigError
from ..prepare.overlong import count, fit_prompt
from .base import Outcome, Processor, Row
from .rows import ids_of, media_in

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ...hparams.data_args import DataArguments
    from ..messages import Message, Sample, Segment
    from ..template.base import Template


class Prompt(NamedTuple):
    """Messages up to where the model goes on, the text to compare its completion with, and the messages' tokens."""

    messages: tuple[Message, ...]
    reference: str
    segments: list[Segment]


def split_completion(sample: Sample) -> tuple[tuple[Message, ...], str]:
    """Return what stands before the last assistant turn, and that turn's text ("" when there is none)."""
    roles = [message.role for message in sample.messages]
    if "assistant" not in roles:
        return sample.messages, ""
    end = len(roles) - 1 - roles[::-1].index("assistant")
    return sample.messages[:end], sample.messages[end].text


class PromptProcessor(Processor[Prompt]):
    """Columns ``input_ids`` (ends with the generation prompt) and ``reference`` (text; "" where the row has none)."""

    name = "prompt"
    columns: tuple[str, ...] = ("input_ids", "reference", "sample")

    def check(self, messages: Sequence[Message], sample: Sample) -> None:
        """Raise where a prompt is not fit to go on from; any is here."""

    def features(self, sample: Sample, prompt: Prompt) -> dict[str, Any]:
        """Columns of a prompt beside its tokens."""
        return {"reference": prompt.reference}

    def tokenize(
        self, samples: Sequence[Sample], template: Template, tokenizer: PreTrainedTokenizerBase, args: DataArguments
    ) -> Iterator[Prompt]:
        """One prompt after the other."""
        for sample in samples:
            messages, reference = split_completion(sample)
            self.check(messages, sample)
            try:
                segments = template.encode_asked(replace(sample, messages=messages))
            except ConfigError as error:
                raise ConfigError(f"{sample.origin}: {error}" if sample.origin else str(error)) from None
            yield Prompt(messages, reference, segments)

    def fit(self, sample: Sample, tokens: Prompt, args: DataArguments) -> Outcome:
        """A prompt beyond ``cutoff_len`` is cut; one whose media do not fit is left out."""
        fitted = fit_prompt(tokens.segments, args.cutoff_len, args.overlong, sample.origin)
        rows = [
            Row(
                {
                    "input_ids": ids_of(segments),
                    "media": [media_in(segments)],
                    **self.features(sample, tokens),
                },
                trained=0,
            )
            for segments in fitted.rows
        ]
        return Outcome(rows, count(tokens.segments), fitted.lost, too_long=not rows)
