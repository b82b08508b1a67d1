# SPDX-License-Identifier: Apache-2.0
"""Features for pre-training: running text, every token trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ..messages import Segment
from ..prepare.overlong import Rule, fit_text
from .base import Outcome, Processor
from .rows import sequence_rows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ...hparams.data_args import DataArguments
    from ..messages import Sample
    from ..template.base import Template


class PretrainProcessor(Processor[list[int]]):
    """The texts of a sample's messages are joined by line breaks, without a template, and end with EOS."""

    name = "pretrain"
    default_overlong: Rule = "split"
    packs = True
    unused = ("margin", "kto_tag", "tools", "chosen", "rejected", "reasoning", "weights")

    def tokenize(
        self, samples: Sequence[Sample], template: Template, tokenizer: PreTrainedTokenizerBase, args: DataArguments
    ) -> Iterator[list[int]]:
        """An empty text has no tokens, not even EOS."""
        texts = ["\n".join(message.text for message in sample.messages) for sample in samples]
        end = tokenizer.eos_token_id
        for text, ids in zip(texts, tokenizer(texts, verbose=False)["input_ids"] if texts else [], strict=True):
            yield [*ids, end] if text and end is not None and ids[-1:] != [end] else ids

    def fit(self, sample: Sample, tokens: list[int], args: DataArguments) -> Outcome:
        """A text beyond ``cutoff_len`` becomes several rows unless ``overlong`` says otherwise."""
        length = len(tokens)
        texts, lost = fit_text(tokens, args.cutoff_len, args.overlong, sample.origin)
        rows = sequence_rows([[Segment(ids, 1.0, 0)] for ids in texts])
        return Outcome(rows, length, lost if rows else length, too_long=args.overlong == "drop" and lost > 0)
