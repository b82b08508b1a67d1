# SPDX-License-Identifier: Apache-2.0
"""Features of preference pairs: the preferred answer and the other one, each after the same prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ...extras.errors import ConfigError
from ..prepare.overlong import Rule
from .completions import AnswerWriter, encode_answers, require_answer
from .base import Encoded

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ...hparams.data_args import DataArguments
    from ..messages import Message, Sample
    from ..template.base import Template


class PairwiseProcessor:
    """A row is two sequences, the preferred one first, and ``margin``: [m] or [0]; only the answers are trained."""

    name = "pairwise"
    default_overlong: Rule = "truncate"
    packs = False

    def encode(
        self,
        samples: Sequence[Sample],
        template: Template,
        tokenizer: PreTrainedTokenizerBase,
        args: DataArguments,
    ) -> Encoded:
        """Encode pairs.

        Raises:
            ConfigError: A row has no pair, an empty answer, or two equal ones; names the file and the row.
        """
        writer, margins = AnswerWriter(args), []
        encoded = encode_answers(samples, [_pair(sample) for sample in samples], template)
        for number, (sample, sequences) in enumerate(zip(samples, encoded, strict=True)):
            if writer.write(sequences, sample, number, differ=True):
                margins.append([sample.margin or 0.0])
        return Encoded({**writer.columns, "margin": margins}, writer.tally)


def _pair(sample: Sample) -> tuple[tuple[Message, ...], tuple[Message, ...]]:
    if sample.chosen is None or sample.rejected is None:
        raise ConfigError(
            f"{sample.origin}: no pair of answers; set ranking: true and the columns chosen and rejected "
            "in dataset_info.json"
        )
    require_answer(sample.chosen, "the chosen answer", sample)
    require_answer(sample.rejected, "the rejected answer", sample)
    if sample.chosen == sample.rejected:
        raise ConfigError(f"{sample.origin}: chosen and rejected are the same answer")
    return sample.chosen, sample.rejected
