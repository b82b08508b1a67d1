# SPDX-License-Identifier: Apache-2.0
"""Features for supervised fine-tuning: the whole conversation, its assistant turns trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from ...extras.errors import ConfigError
from ..messages import Segment
from ..prepare.overlong import count, fit
from .base import OF_HEADS, Outcome, Processor, Row
from .rows import is_trained, sequence_rows, without

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ...hparams.data_args import DataArguments
    from ..messages import Message, Sample
    from ..sources.dataset_info import DatasetAttr
    from ..template.base import Template


class Conversation(NamedTuple):
    """The rows of one sample, and how many of its answers its whole text shows otherwise than when asked for."""

    rows: list[list[Segment]]
    rewritten: int


class SupervisedProcessor(Processor[Conversation]):
    """``train_on_prompt``, ``mask_history``, ``thoughts`` and the messages' own weights decide what is trained."""

    name = "supervised"
    unused = ("margin", "kto_tag", "chosen", "rejected", *OF_HEADS)

    def check_layout(self, attr: DatasetAttr) -> None:
        """Running text has no answer to train."""
        columns = attr.columns
        if attr.formatting == "alpaca" and not (attr.ranking or columns.response or columns.history):
            raise ConfigError(
                f"dataset {attr.name!r}: its rows are running text (column {columns.prompt!r}), and stage sft trains "
                'answers; use stage: pt, or name the answer: columns="prompt=…,response=…"'
            )

    def tokenize(
        self, samples: Sequence[Sample], template: Template, tokenizer: PreTrainedTokenizerBase, args: DataArguments
    ) -> list[Conversation | None]:
        """Conversations without an assistant turn are left out."""
        found = [_rows_of(sample, template, args) for sample in samples]
        encoded = iter(
            template.encode_batch(
                [row for rows, _ in found for row in rows],
                train_on_prompt=args.train_on_prompt,
                mask_history=args.mask_history,
            )
        )
        return [Conversation([next(encoded) for _ in rows], rewritten) if rows else None for rows, rewritten in found]

    def fit(self, sample: Sample, tokens: Conversation, args: DataArguments) -> Outcome:
        """A conversation may become several rows; those without a trained token are left out."""
        rows: list[Row] = []
        lost = 0
        for segments in tokens.rows:
            sequences, missing = fit(segments, sample.messages, args.cutoff_len, args.overlong, sample.origin)
            made = sequence_rows(sequences)
            rows += made
            lost += missing if made else count(segments)
        too_long = args.overlong == "drop" and lost > 0
        return Outcome(rows, count(tokens.rows[-1]), lost, too_long, tokens.rewritten)


def _rows_of(sample: Sample, template: Template, args: DataArguments) -> tuple[list[Sample], int]:
    """The conversations that a sample is trained as, the whole one last, and how many of its answers are rewritten."""
    if sample.prompt and not args.train_on_prompt:
        context = tuple(map(_as_context, sample.messages[: sample.prompt]))
        sample = replace(sample, messages=context + sample.messages[sample.prompt :])
    messages = sample.messages
    if not any(message.role == "assistant" for message in messages):
        return [], 0
    if args.train_on_prompt or args.thoughts == "train":
        return [sample], 0
    rewritten = template.rewritten(sample)
    last = max(place for place, message in enumerate(messages) if message.role == "assistant")
    trained = [
        place
        for place in sorted(rewritten)
        if is_trained(messages[place], default=0.0 if args.mask_history and place != last else 1.0)
    ]
    if not trained:
        return [sample], 0
    whole = replace(sample, messages=without(messages, rewritten))
    alone = [_only(sample, place) for place in trained] if args.thoughts == "split" else []
    if any(is_trained(message) for message in whole.messages if message.role == "assistant") or not alone:
        alone.append(whole)
    return alone, len(trained)


def _as_context(message: Message) -> Message:
    """The message untrained, but for what it asks itself."""
    calls = 0.0 if message.call_weight is None else message.call_weight
    return replace(message, weight=message.weight or 0.0, call_weight=calls)


def _only(sample: Sample, place: int) -> Sample:
    """The conversation that ends with one answer, which alone is trained."""
    return replace(sample, messages=(*without(sample.messages[:place], range(place)), sample.messages[place]))
