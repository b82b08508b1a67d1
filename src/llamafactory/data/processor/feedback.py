# SPDX-License-Identifier: Apache-2.0
"""Features of judged answers (KTO): an answer with its verdict, and a mismatched answer to the same prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ...extras.errors import ConfigError
from ..prepare.overlong import Rule
from .completions import AnswerWriter, encode_answers, require_answer
from .base import Encoded

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ...hparams.data_args import DataArguments
    from ..messages import Message, Sample
    from ..template.base import Template


class FeedbackProcessor:
    """A row is two sequences, the judged one first, and ``desirable``: [1] or [0].

    The second is the prompt with the answer of the next sample of the batch: KTO estimates from such pairs how far the
    policy has gone from the reference.
    """

    name = "feedback"
    default_overlong: Rule = "truncate"
    packs = False

    def encode(
        self,
        samples: Sequence[Sample],
        template: Template,
        tokenizer: PreTrainedTokenizerBase,
        args: DataArguments,
    ) -> Encoded:
        """Encode judged answers.

        Raises:
            ConfigError: A row has no verdict or no answer; names the file and the row.
        """
        writer, desirable = AnswerWriter(args), []
        answers = [_answer(sample) for sample in samples]
        prompts = [replace(sample, messages=sample.messages[:-1]) for sample in samples]
        pairs = list(zip(answers, [*answers[1:], *answers[:1]], strict=True))
        encoded: list[Any] = encode_answers(prompts, pairs, template)
        for number, (sample, sequences) in enumerate(zip(prompts, encoded, strict=True)):
            if writer.write(sequences, sample, number, differ=False):
                desirable.append([int(bool(sample.label))])
        return Encoded({**writer.columns, "desirable": desirable}, writer.tally)


def _answer(sample: Sample) -> tuple[Message, ...]:
    if sample.label is None:
        raise ConfigError(f"{sample.origin}: no verdict; name the column kto_tag in dataset_info.json")
    answer = sample.messages[-1:]
    if not answer or answer[0].role != "assistant":
        raise ConfigError(f"{sample.origin}: the last turn is not an answer")
    require_answer(answer, "the answer", sample)
    return answer
