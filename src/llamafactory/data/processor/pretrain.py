# SPDX-License-Identifier: Apache-2.0
"""Features for pre-training: running text, every token trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..messages import Segment
from ..prepare.overlong import Rule, fit_text
from .base import Encoded, Tally
from .rows import RowWriter

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ...hparams.data_args import DataArguments
    from ..messages import Sample
    from ..template.base import Template


class PretrainProcessor:
    """The texts of a sample's messages are joined by line breaks, without a template, and end with EOS."""

    name = "pretrain"
    default_overlong: Rule = "split"
    packs = True

    def encode(
        self,
        samples: Sequence[Sample],
        template: Template,
        tokenizer: PreTrainedTokenizerBase,
        args: DataArguments,
    ) -> Encoded:
        """Encode texts; those beyond ``cutoff_len`` become several rows unless ``overlong`` says otherwise."""
        tally, writer = Tally(), RowWriter()
        texts = ["\n".join(message.text for message in sample.messages) for sample in samples]
        end = tokenizer.eos_token_id
        encoded = tokenizer(texts, verbose=False)["input_ids"] if texts else []
        for number, (sample, text, ids) in enumerate(zip(samples, texts, encoded, strict=True)):
            if text and end is not None and ids[-1:] != [end]:
                ids.append(end)
            rows, lost = fit_text(ids, args.cutoff_len, args.overlong, sample.origin) if text else ([], 0)
            written = sum(writer.write([Segment(row, 1.0, 0)], number, tally) for row in rows)
            tally.settle(
                len(ids), written, lost if written else len(ids), too_long=args.overlong == "drop" and lost > 0
            )
        return Encoded(writer.columns, tally)
