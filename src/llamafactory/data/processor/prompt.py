# SPDX-License-Identifier: Apache-2.0
"""Features for generation: the prompt before the last assistant turn, and that turn's text to compare with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ...extras.errors import ConfigError
from ..messages import has_media
from ..prepare.overlong import cut_middle, too_long
from .base import Outcome, Processor, Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ...hparams.data_args import DataArguments
    from ..messages import Message, Sample
    from ..template.base import Template


class Prompt(NamedTuple):
    """Messages up to where the model goes on, the text to compare its completion with, and the messages' tokens."""

    messages: tuple[Message, ...]
    reference: str
    ids: list[int]


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

    def features(self, sample: Sample, prompt: Prompt, ids: list[int]) -> Row:
        """The row of a prompt, of whose tokens ``ids`` are left."""
        return Row({"input_ids": ids, "reference": prompt.reference}, trained=0)

    def tokenize(
        self, samples: Sequence[Sample], template: Template, tokenizer: PreTrainedTokenizerBase, args: DataArguments
    ) -> Iterator[Prompt]:
        """One prompt after the other."""
        for sample in samples:
            messages, reference = split_completion(sample)
            self.check(messages, sample)
            if has_media(messages):
                raise ConfigError(
                    f"{sample.origin}: the row has media; do_predict, predict_with_generate, ppo, grpo take text alone"
                )
            try:
                ids = template.encode_prompt(messages, sample.tools)
            except ConfigError as error:
                raise ConfigError(f"{sample.origin}: {error}" if sample.origin else str(error)) from None
            yield Prompt(messages, reference, ids)

    def fit(self, sample: Sample, tokens: Prompt, args: DataArguments) -> Outcome:
        """A prompt beyond ``cutoff_len`` loses its middle, since its end is its header; with ``keep_end`` its start."""
        length, ids = len(tokens.ids), cut_middle(tokens.ids, args.cutoff_len)
        if args.overlong == "keep_end":
            ids = tokens.ids[-args.cutoff_len :]
        if len(ids) < length and args.overlong == "error":
            raise too_long(sample.origin, length, args.cutoff_len)
        if len(ids) < length and args.overlong == "drop":
            return Outcome([], length, length, too_long=True)
        return Outcome([self.features(sample, tokens, ids)], length, length - len(ids), too_long=False)
