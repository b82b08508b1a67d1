# SPDX-License-Identifier: Apache-2.0
"""Features for supervised fine-tuning: the whole conversation, its assistant turns trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ...extras.errors import ConfigError
from ..messages import Segment
from ..prepare.overlong import count, fit
from .base import Outcome, Processor
from .rows import sequence_rows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ...hparams.data_args import DataArguments
    from ..messages import Sample
    from ..sources.dataset_info import DatasetAttr
    from ..template.base import Template


class SupervisedProcessor(Processor[list[Segment]]):
    """``train_on_prompt``, ``mask_history`` and the messages' own weights decide what is trained."""

    name = "supervised"
    unused = ("margin", "kto_tag", "chosen", "rejected")

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
    ) -> list[list[Segment] | None]:
        """Conversations without an assistant turn are left out."""
        answered = [any(message.role == "assistant" for message in sample.messages) for sample in samples]
        encoded = iter(
            template.encode_batch(
                [sample for sample, is_answered in zip(samples, answered, strict=True) if is_answered],
                train_on_prompt=args.train_on_prompt,
                mask_history=args.mask_history,
            )
        )
        return [next(encoded) if is_answered else None for is_answered in answered]

    def fit(self, sample: Sample, tokens: list[Segment], args: DataArguments) -> Outcome:
        """A conversation may become several rows; those without a trained token are left out."""
        length = count(tokens)
        sequences, lost = fit(tokens, sample.messages, args.cutoff_len, args.overlong, sample.origin)
        rows = sequence_rows(sequences)
        return Outcome(rows, length, lost if rows else length, too_long=args.overlong == "drop" and lost > 0)
