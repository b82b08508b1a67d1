# SPDX-License-Identifier: Apache-2.0
"""What every engine offers, whatever runs underneath."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from ..data.messages import Message
    from ..data.template import Template


@dataclass(frozen=True)
class Response:
    """One answer."""

    text: str
    response_length: int  # tokens generated, the stop token included
    prompt_length: int  # tokens of the rendered conversation
    finish_reason: Literal["stop", "length"]


class Engine(Protocol):
    """A loaded model that answers conversations. Built as ``Engine(args: InferArgs)``.

    Overrides of a call, all optional: ``do_sample``, ``temperature``, ``top_p``, ``top_k``, ``num_beams``,
    ``num_return_sequences``, ``repetition_penalty``, ``length_penalty``, ``max_new_tokens``, ``max_length``,
    ``skip_special_tokens``, ``seed``, ``stop`` (a string or several) and ``enable_thinking``. What is not given comes
    from the configuration. An unknown one, or a prompt that does not fit the model, is a ``ConfigError``.
    """

    template: Template

    async def chat(self, messages: Sequence[Message], tools: Sequence[dict], **overrides: Any) -> list[Response]:
        """Answer; ``num_return_sequences`` responses."""
        ...

    def stream_chat(
        self, messages: Sequence[Message], tools: Sequence[dict], **overrides: Any
    ) -> AsyncGenerator[str, None]:
        """Yield the pieces of one answer as they are made. Closing the iterator ends the generation."""
        ...

    async def get_scores(self, texts: Sequence[str], **overrides: Any) -> list[float]:
        """Score whole texts with a reward model."""
        ...
