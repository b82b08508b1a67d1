# SPDX-License-Identifier: Apache-2.0
"""Features for supervised fine-tuning: the whole conversation, its answers trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..prepare.overlong import Rule, count, fit
from .base import Encoded, Tally
from .rows import RowWriter

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ...hparams.data_args import DataArguments
    from ..messages import Sample
    from ..template.base import Template


class SupervisedProcessor:
    """``train_on_prompt``, ``mask_history`` and the messages' own weights decide what is trained."""

    name = "supervised"
    default_overlong: Rule = "truncate"
    packs = False

    def encode(
        self,
        samples: Sequence[Sample],
        template: Template,
        tokenizer: PreTrainedTokenizerBase,
        args: DataArguments,
    ) -> Encoded:
        """Encode conversations; those without an answer are counted and left out."""
        tally, writer = Tally(), RowWriter()
        answered = [any(message.role == "assistant" for message in sample.messages) for sample in samples]
        numbers = [number for number, has_answer in enumerate(answered) if has_answer]
        tally.rows = tally.unanswered = len(samples) - len(numbers)
        encoded = template.encode_batch(
            [samples[number] for number in numbers],
            train_on_prompt=args.train_on_prompt,
            mask_history=args.mask_history,
        )
        for number, segments in zip(numbers, encoded, strict=True):
            sample, length = samples[number], count(segments)
            rows, lost = fit(segments, sample.messages, args.cutoff_len, args.overlong, sample.origin)
            written = sum(writer.write(row, number, tally) for row in rows)
            tally.settle(length, written, lost if written else length, too_long=args.overlong == "drop" and lost > 0)
        return Encoded(writer.columns, tally)
