# SPDX-License-Identifier: Apache-2.0
"""Features of the stages that reward the model's own answers: prompts, and everything rewards may look at."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ...extras.errors import ConfigError
from ..prepare.overlong import Rule, cut_middle, too_long
from .base import IGNORED, Encoded, Tally
from .prompt import split_answer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ...hparams.data_args import DataArguments
    from ..messages import Message, Sample
    from ..template.base import Template


class RolloutProcessor:
    """A row is a prompt, and ``rollout``: JSON of ``messages``, ``tools``, ``columns`` (the whole row), ``reference``.

    ``reference`` is the text of the row's last answer, "" when it has none; the prompt ends before that answer.
    """

    name = "rollout"
    default_overlong: Rule = "truncate"
    packs = False

    def encode(
        self,
        samples: Sequence[Sample],
        template: Template,
        tokenizer: PreTrainedTokenizerBase,
        args: DataArguments,
    ) -> Encoded:
        """Encode prompts; one beyond ``cutoff_len`` loses its middle (also with ``overlong: split``).

        Raises:
            ConfigError: A row has no prompt; names the file and the row.
        """
        tally = Tally()
        columns: dict[str, list[Any]] = {name: [] for name in ("input_ids", "labels", "seq_lens", "rollout", "sample")}
        for number, sample in enumerate(samples):
            prompt, reference = split_answer(sample)
            _require_prompt(prompt, sample)
            whole = template.encode_prompt(prompt, sample.tools)
            ids = cut_middle(whole, args.cutoff_len)
            if len(ids) < len(whole) and args.overlong == "error":
                raise too_long(sample.origin, len(whole), args.cutoff_len)
            keep = len(ids) == len(whole) or args.overlong != "drop"
            tally.settle(len(whole), int(keep), len(whole) - len(ids) if keep else len(whole), too_long=True)
            if not keep:
                continue
            tally.tokens_out += len(ids)
            row = {
                "messages": [message.to_openai() for message in prompt],
                "tools": list(sample.tools),
                "columns": dict(sample.row or {}),
                "reference": reference,
            }
            columns["input_ids"].append(ids)
            columns["labels"].append([IGNORED] * len(ids))
            columns["seq_lens"].append([len(ids)])
            columns["rollout"].append(json.dumps(row, ensure_ascii=False, default=str))
            columns["sample"].append(number)
        return Encoded(columns, tally)


def _require_prompt(prompt: Sequence[Message], sample: Sample) -> None:
    """Raise unless there is a question or a tool's answer to go on from."""
    last = prompt[-1] if prompt else None
    if last is None or last.role not in ("user", "tool"):
        raise ConfigError(f"{sample.origin}: there is no prompt before the answer")
    if not any(part.type != "text" or part.value.strip() for part in last.parts):
        raise ConfigError(f"{sample.origin}: the prompt is empty")
