# SPDX-License-Identifier: Apache-2.0
"""What a reward is a function of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ....data.messages import Message


@dataclass(frozen=True)
class Completion:
    """One completion of the policy, with what rewards may look at.

    Attributes:
        prompt: The conversation before it.
        message: The completion, parsed: thought, text, tool calls.
        text: As decoded, without special tokens.
        ids: Its tokens.
        finished: It ended by a stop token, not by the limit of length.
        columns: The row's further columns; ``reference`` is the text of the row's last turn of the assistant.
        turns: All messages of a rollout with tools, their results included; empty = ``message`` alone.
        tools: OpenAI tool objects that stood in the prompt.
    """

    prompt: tuple[Message, ...]
    message: Message
    text: str
    ids: list[int]
    finished: bool = True
    columns: dict[str, Any] = field(default_factory=dict)
    turns: tuple[Message, ...] = ()
    tools: tuple[dict[str, Any], ...] = ()

    @property
    def said(self) -> tuple[Message, ...]:
        """All that was said after the prompt."""
        return self.turns or (self.message,)


RewardFunction = Callable[[Sequence[Completion]], Tensor]
"""Completions [N] -> rewards [N] float64; nan = no opinion."""
