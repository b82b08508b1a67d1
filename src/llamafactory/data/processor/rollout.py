# SPDX-License-Identifier: Apache-2.0
"""Features of the stages that reward the model's own completions: prompts, and everything rewards may look at."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ...extras.errors import ConfigError
from .base import IGNORED, Row
from .prompt import Prompt, PromptProcessor

if TYPE_CHECKING:
    from ..messages import Message, Sample


class RolloutProcessor(PromptProcessor):
    """A row is a prompt, and ``rollout``: JSON of ``messages``, ``tools``, ``columns`` (the whole row), ``reference``.

    ``reference`` is the text of the row's last assistant turn, "" when it has none; the prompt ends before that turn.
    """

    name = "rollout"
    columns = ("input_ids", "labels", "seq_lens", "rollout", "sample")
    unused = None

    def check(self, messages: Sequence[Message], sample: Sample) -> None:
        """Raise unless there is a question or a tool's result to go on from."""
        last = messages[-1] if messages else None
        if last is None or last.role not in ("user", "tool"):
            raise ConfigError(f"{sample.origin}: there is no prompt before the answer")
        if not any(part.type != "text" or part.value.strip() for part in last.parts):
            raise ConfigError(f"{sample.origin}: the prompt is empty")

    def features(self, sample: Sample, prompt: Prompt, ids: list[int]) -> Row:
        """The row of a prompt; none of its tokens is trained."""
        row = {
            "messages": [message.to_openai() for message in prompt.messages],
            "tools": list(sample.tools),
            "columns": dict(sample.row or {}),
            "reference": prompt.reference,
        }
        features = {
            "input_ids": ids,
            "labels": [IGNORED] * len(ids),
            "seq_lens": [len(ids)],
            "rollout": json.dumps(row, ensure_ascii=False, default=str),
        }
        return Row(features, trained=0)
