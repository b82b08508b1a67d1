# SPDX-License-Identifier: Apache-2.0
"""From the engine's pieces to the choices of ``/v1/chat/completions`` and ``/v1/completions``, whole and streamed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..chat.response_parser import DeltaMessage, DeltaToolCall, ResponseParser

if TYPE_CHECKING:
    from ..chat.base_engine import Delta, TokenLogProb
    from .calls import Call
    from .errors import ApiError


@dataclass
class Usage:
    """Tokens of one request; each prompt counts once."""

    prompts: dict[int, int] = field(default_factory=dict)  # by number of the prompt
    completion: int = 0

    def add(self, prompt: int, delta: Delta) -> None:
        """Count one delta."""
        self.prompts[prompt] = delta.prompt_tokens or self.prompts.get(prompt, 0)
        self.completion += delta.tokens

    @property
    def prompt(self) -> int:
        """Tokens of all prompts."""
        return sum(self.prompts.values())

    def body(self) -> dict[str, int]:
        """``usage`` of a response."""
        total = self.prompt + self.completion
        return {"prompt_tokens": self.prompt, "completion_tokens": self.completion, "total_tokens": total}


class ChatChoice:
    """Reads the deltas of one choice of a chat and writes its chunks; keeps the whole message beside."""

    def __init__(self, index: int, parser: ResponseParser, several_calls: bool) -> None:
        self._index, self._parser, self._several_calls = index, parser, several_calls
        self._begun = False
        self._reasoning, self._content = "", ""
        self._calls: list[dict[str, Any]] = []
        self._log_probs: list[dict[str, Any]] | None = None
        self._finish: str | None = None

    def take(self, delta: Delta) -> Iterable[dict[str, Any]]:
        """Yield the choices of the chunks that a delta makes."""
        if not self._begun:
            self._begun = True
            yield self._choice({"role": "assistant", "content": ""})
        pieces = [self._parser.push(delta.text)]
        if delta.finish_reason:
            pieces.append(self._parser.finish())
        log_probs = chat_log_probs(delta.log_probs) if delta.log_probs else None
        if log_probs:
            self._log_probs = (self._log_probs or []) + log_probs
        for piece in pieces:
            changes = self._keep(piece)
            if changes or log_probs:
                yield self._choice(changes or {"content": ""}, log_probs)
                log_probs = None
        if delta.finish_reason:
            self._finish = "tool_calls" if self._calls and delta.finish_reason == "stop" else delta.finish_reason
            yield {**self._choice({}), "finish_reason": self._finish}

    def choice(self) -> dict[str, Any]:
        """The whole choice."""
        message: dict[str, Any] = {"role": "assistant", "content": self._content or (None if self._calls else "")}
        if self._reasoning:
            message["reasoning_content"] = self._reasoning
        if self._calls:
            message["tool_calls"] = self._calls
        log_probs = None if self._log_probs is None else {"content": self._log_probs, "refusal": None}
        return {"index": self._index, "message": message, "logprobs": log_probs, "finish_reason": self._finish}

    def _choice(self, delta: dict[str, Any], log_probs: list[dict[str, Any]] | None = None) -> dict[str, Any]:
        reported = None if log_probs is None else {"content": log_probs, "refusal": None}
        return {"index": self._index, "delta": delta, "logprobs": reported, "finish_reason": None}

    def _keep(self, piece: DeltaMessage) -> dict[str, Any]:
        """Add a piece to the message; return what a chunk says of it."""
        changes: dict[str, Any] = {}
        if piece.reasoning:
            self._reasoning += piece.reasoning
            changes["reasoning_content"] = piece.reasoning
        if piece.content:
            self._content += piece.content
            changes["content"] = piece.content
        calls = [call for call in piece.calls if self._several_calls or call.index == 0]
        if calls:
            changes["tool_calls"] = [self._keep_call(call) for call in calls]
        return changes

    def _keep_call(self, piece: DeltaToolCall) -> dict[str, Any]:
        if piece.name is None:
            self._calls[piece.index]["function"]["arguments"] += piece.arguments
            return {"index": piece.index, "function": {"arguments": piece.arguments}}
        function = {"name": piece.name, "arguments": piece.arguments}
        self._calls.append({"id": piece.id, "type": "function", "function": dict(function)})
        return {"index": piece.index, "id": piece.id, "type": "function", "function": function}


class TextChoice:
    """The same for one choice of ``/v1/completions``.

    Args:
        index: Number of the choice.
        echo: Text that stands before the response.
        log_probs: Whether they were requested.
    """

    def __init__(self, index: int, echo: str, log_probs: bool) -> None:
        self._index, self._text = index, ""
        self._echo = echo
        self._log_probs: dict[str, list[Any]] | None = _no_log_probs() if log_probs else None
        self._offset = 0
        self._finish: str | None = None

    def take(self, delta: Delta) -> Iterable[dict[str, Any]]:
        """Yield the choices of the chunks that a delta makes."""
        text, self._echo = self._echo + delta.text, ""
        self._text += text
        self._finish = delta.finish_reason
        log_probs = None
        if self._log_probs is not None:
            log_probs = _no_log_probs()
            for one in delta.log_probs:
                log_probs["tokens"].append(one.token)
                log_probs["token_logprobs"].append(one.log_prob)
                log_probs["top_logprobs"].append({token: log_prob for _, token, log_prob in one.top})
                log_probs["text_offset"].append(self._offset)
                self._offset += len(one.token)
            for name, values in log_probs.items():
                self._log_probs[name] += values
        if text or delta.log_probs or delta.finish_reason:
            yield {"index": self._index, "text": text, "logprobs": log_probs, "finish_reason": delta.finish_reason}

    def choice(self) -> dict[str, Any]:
        """The whole choice."""
        return {
            "index": self._index,
            "text": self._text,
            "logprobs": self._log_probs,
            "finish_reason": self._finish,
        }


Choice = ChatChoice | TextChoice


class Choices:
    """The answer of both routes.

    Args:
        head: Fields of the answer that are known before.
        chunk: ``object`` of the chunks of a stream.
        choices: By prompt and index.
        with_usage: Whether a stream tells the usage.
    """

    closing = "data: [DONE]\n\n"

    def __init__(
        self, head: dict[str, Any], chunk: str, choices: dict[tuple[int, int], Choice], with_usage: bool
    ) -> None:
        self._head, self._choices, self._with_usage = head, choices, with_usage
        self._chunk = {**head, "object": chunk, **({"usage": None} if with_usage else {})}
        self._usage = Usage()

    def begin(self) -> Iterable[dict[str, Any]]:
        """Nothing is told before the first piece."""
        return ()

    def take(self, number: int, delta: Delta) -> Iterable[dict[str, Any]]:
        """Yield the chunks that a delta makes."""
        self._usage.add(number, delta)
        for choice in self._choices[number, delta.index].take(delta):
            yield {**self._chunk, "choices": [choice]}

    def end(self) -> Iterable[dict[str, Any]]:
        """The usage, if it was requested."""
        if self._with_usage:
            yield {**self._chunk, "choices": [], "usage": self._usage.body()}

    def fail(self, error: ApiError) -> dict[str, Any]:
        """The event that ends a stream after an error."""
        return error.body()

    def body(self) -> dict[str, Any]:
        """The whole answer."""
        whole = [choice.choice() for choice in self._choices.values()]
        return {**self._head, "choices": whole, "usage": self._usage.body()}


def chat_choices(call: Call, count: int) -> dict[tuple[int, int], Choice]:
    """The choices of a chat, by prompt (there is one) and index."""
    return {(0, index): ChatChoice(index, call.parser(), call.several_calls) for index in range(count)}


def text_choices(calls: list[Call], count: int, echoes: list[str]) -> dict[tuple[int, int], Choice]:
    """The choices of a completion; all choices of the first prompt come first."""
    return {
        (number, index): TextChoice(number * count + index, echoes[number], call.overrides["log_probs"] is not None)
        for number, call in enumerate(calls)
        for index in range(count)
    }


def _no_log_probs() -> dict[str, list[Any]]:
    return {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}


def chat_log_probs(tokens: Iterable[TokenLogProb]) -> list[dict[str, Any]]:
    """Log-probabilities as OpenAI sends them."""
    return [
        {
            **_chat_token(one.token, one.log_prob),
            "top_logprobs": [_chat_token(token, log_prob) for _, token, log_prob in one.top],
        }
        for one in tokens
    ]


def _chat_token(token: str, log_prob: float) -> dict[str, Any]:
    # JSON has no infinity; a token that cannot come gets the number that OpenAI sends for it.
    return {"token": token, "logprob": max(log_prob, -9999.0), "bytes": list(token.encode())}
