# SPDX-License-Identifier: Apache-2.0
"""Features of the stages that reward the model's own completions: prompts, and everything rewards may look at."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ...extras.errors import ConfigError
from ..media.references import referred
from .base import IGNORED
from .prompt import Prompt, PromptProcessor

if TYPE_CHECKING:
    from ...hparams.data_args import DataArguments
    from ..messages import Medium, Message, Sample
    from .base import Outcome


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

    def features(self, sample: Sample, prompt: Prompt) -> dict[str, Any]:
        """Media stand in all of it as paths: a row's own bytes have files of their own by now."""
        media = [segment.medium for segment in prompt.segments if segment.medium]
        named = {f"{kind}s": [one.source for one in media if one.type == kind] for kind in {one.type for one in media}}
        row = {
            "messages": [message.to_openai() for message in with_sources(prompt.messages, media)],
            "tools": list(sample.tools),
            "columns": {**(sample.row or {}), **named},
            "reference": prompt.reference,
        }
        return {"rollout": json.dumps(row, ensure_ascii=False, default=_shown)}

    def fit(self, sample: Sample, tokens: Prompt, args: DataArguments) -> Outcome:
        """The row of a prompt; none of its tokens is trained."""
        outcome = super().fit(sample, tokens, args)
        for row in outcome.rows:
            length = len(row.features["input_ids"])
            row.features.update(labels=[IGNORED] * length, seq_lens=[length])
        return outcome


def _shown(value: Any) -> str:
    """What JSON cannot hold, for rewards."""
    return f"<{len(value)} bytes>" if isinstance(value, bytes) else str(value)


def with_sources(messages: Sequence[Message], media: Sequence[Medium]) -> list[Message]:
    """The same messages, what each medium was read from in place of its value."""
    sources = iter(media)
    return [
        replace(
            message,
            parts=tuple(
                part if part.type == "text" else replace(part, value=referred(next(sources).source))
                for part in message.parts
            ),
        )
        for message in messages
    ]
