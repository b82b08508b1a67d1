# SPDX-License-Identifier: Apache-2.0
"""Features for pre-training: running text, every token trained."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ..messages import Message, Segment, ToolCall, has_media
from ..prepare.overlong import Rule, count, fit_running, fit_text
from .base import OF_HEADS, Outcome, Processor
from .rows import sequence_rows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ...hparams.data_args import DataArguments
    from ..messages import Sample
    from ..template.base import Template


class PretrainProcessor(Processor[list[Segment]]):
    """The texts of a sample's messages are joined by line breaks, without a template, and end with EOS.

    Calls of tools are text too: each is a line of JSON, as rows write them.
    """

    name = "pretrain"
    default_overlong: Rule = "split"
    packs = True
    unused = ("margin", "kto_tag", "tools", "chosen", "rejected", "reasoning", "weights", *OF_HEADS)

    def tokenize(
        self, samples: Sequence[Sample], template: Template, tokenizer: PreTrainedTokenizerBase, args: DataArguments
    ) -> Iterator[list[Segment]]:
        """An empty text has no tokens, not even EOS."""
        plain = [sample for sample in samples if not has_media(sample.messages)]
        texts = ["\n".join(line for message in sample.messages for line in _lines(message)) for sample in plain]
        encoded = zip(texts, tokenizer(texts, verbose=False)["input_ids"] if texts else [], strict=True)
        end = tokenizer.eos_token_id
        for sample in samples:
            if has_media(sample.messages):
                segments = template.encode_running(sample)
                yield segments if end is None else [*segments, Segment([end], 1.0, 0)]
                continue
            text, ids = next(encoded)
            yield [Segment([*ids, end] if text and end is not None and ids[-1:] != [end] else ids, 1.0, 0)]

    def fit(self, sample: Sample, tokens: list[Segment], args: DataArguments) -> Outcome:
        """A text beyond ``cutoff_len`` becomes several rows unless ``overlong`` says otherwise."""
        length = count(tokens)
        if any(segment.medium for segment in tokens):
            texts, lost = fit_running(tokens, args.cutoff_len, args.overlong, sample.origin)
        else:
            plain, lost = fit_text(tokens[0].ids, args.cutoff_len, args.overlong, sample.origin)
            texts = [[Segment(ids, 1.0, 0)] for ids in plain]
        rows = sequence_rows(texts)
        return Outcome(rows, length, lost if rows else length, too_long=args.overlong == "drop" and lost > 0)


def _lines(message: Message) -> list[str]:
    calls = [
        json.dumps({"name": call.name, "arguments": _arguments(call)}, ensure_ascii=False)
        for call in message.tool_calls
    ]
    return [message.text, *calls] if message.text or not calls else calls


def _arguments(call: ToolCall) -> Any:
    """The arguments as JSON text within the call's own; text that is not JSON stays text."""
    if not isinstance(call.arguments, str):
        return call.arguments
    try:
        return json.loads(call.arguments)
    except (json.JSONDecodeError, RecursionError):
        return call.arguments
