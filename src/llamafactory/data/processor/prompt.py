# SPDX-License-Identifier: Apache-2.0
"""Features for generation: the prompt before the last answer, and that answer to compare with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..prepare.overlong import Rule, cut_middle, too_long
from .base import Encoded, Tally

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ...hparams.data_args import DataArguments
    from ..messages import Message, Sample
    from ..template.base import Template


def split_answer(sample: Sample) -> tuple[tuple[Message, ...], str]:
    """Return what stands before the last answer, and that answer's text ("" when there is none)."""
    roles = [message.role for message in sample.messages]
    if "assistant" not in roles:
        return sample.messages, ""
    end = len(roles) - 1 - roles[::-1].index("assistant")
    return sample.messages[:end], sample.messages[end].text


class PromptProcessor:
    """Columns ``input_ids`` (ends with the generation prompt) and ``reference`` (text; "" when there is no answer)."""

    name = "prompt"
    default_overlong: Rule = "truncate"
    packs = False

    def encode(
        self,
        samples: Sequence[Sample],
        template: Template,
        tokenizer: PreTrainedTokenizerBase,
        args: DataArguments,
    ) -> Encoded:
        """Encode prompts; one beyond ``cutoff_len`` loses its middle (also with ``overlong: split``)."""
        tally = Tally()
        columns: dict[str, list[Any]] = {"input_ids": [], "reference": [], "sample": []}
        for number, sample in enumerate(samples):
            prompt, reference = split_answer(sample)
            ids = template.encode_prompt(prompt, sample.tools)
            length, keep = len(ids), True
            if length > args.cutoff_len:
                if args.overlong == "error":
                    raise too_long(sample.origin, length, args.cutoff_len)
                keep = args.overlong != "drop"
                ids = cut_middle(ids, args.cutoff_len)
            tally.settle(length, int(keep), length - len(ids) if keep else length, too_long=True)
            if keep:
                tally.tokens_out += len(ids)
                for name, value in (("input_ids", ids), ("reference", reference), ("sample", number)):
                    columns[name].append(value)
        return Encoded(columns, tally)
