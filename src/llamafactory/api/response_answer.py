# SPDX-License-Identifier: Apache-2.0
"""From the engine's pieces to the response of ``/v1/responses``: its items, and the events that tell how they grow."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from .choices import Usage, chat_log_probs

if TYPE_CHECKING:
    from ..chat.base_engine import Delta
    from ..chat.response_parser import DeltaMessage, DeltaToolCall
    from .calls import Call
    from .errors import ApiError
    from .response_protocol import ResponsesRequest

Event = dict[str, Any]


def identity(prefix: str) -> str:
    """A new name of something."""
    return f"{prefix}{secrets.token_hex(16)}"


class TextItem:
    """A message or a thought: an item with one part of text."""

    def __init__(self, place: int, thought: bool) -> None:
        self._thought, self._event = thought, "response.reasoning_text" if thought else "response.output_text"
        self._text, self._log_probs = "", list[Any]()
        self._id, self._at = identity("rs_" if thought else "msg_"), dict[str, Any](output_index=place)

    def begin(self) -> Iterator[Event]:
        """The item and its part are there, empty."""
        yield {"type": "response.output_item.added", **self._at, "item": self.item("in_progress", empty=True)}
        self._at |= {"item_id": self._id, "content_index": 0}
        yield {"type": "response.content_part.added", **self._at, "part": self._part()}

    def grow(self, text: str, log_probs: list[Any]) -> Event:
        """More text."""
        self._text += text
        self._log_probs += log_probs
        return {"type": f"{self._event}.delta", **self._at, "delta": text, **self._with_log_probs(log_probs)}

    def end(self, status: str) -> Iterator[Event]:
        """The item is whole."""
        yield {"type": f"{self._event}.done", **self._at, "text": self._text, **self._with_log_probs(self._log_probs)}
        yield {"type": "response.content_part.done", **self._at, "part": self._part()}
        place = self._at["output_index"]
        yield {"type": "response.output_item.done", "output_index": place, "item": self.item(status)}

    def item(self, status: str, empty: bool = False) -> dict[str, Any]:
        """As it stands in ``output``."""
        content = [] if empty else [self._part()]
        if self._thought:
            return {"id": self._id, "type": "reasoning", "summary": [], "content": content, "status": status}
        return {"id": self._id, "type": "message", "role": "assistant", "content": content, "status": status}

    def _part(self) -> dict[str, Any]:
        if self._thought:
            return {"type": "reasoning_text", "text": self._text}
        part = {"type": "output_text", "text": self._text, "annotations": []}
        return part | {"logprobs": list(self._log_probs)}

    def _with_log_probs(self, log_probs: list[Any]) -> dict[str, Any]:
        return {} if self._thought else {"logprobs": list(log_probs)}


class CallItem:
    """A call of a function."""

    def __init__(self, place: int, call_id: str, name: str) -> None:
        self._id, self._call_id, self._name, self._arguments = identity("fc_"), call_id, name, ""
        self._place = place

    def begin(self) -> Iterator[Event]:
        """The item is there, without arguments."""
        yield {"type": "response.output_item.added", "output_index": self._place, "item": self.item("in_progress")}

    def grow(self, arguments: str) -> Event:
        """More of the arguments' JSON text."""
        self._arguments += arguments
        at = {"item_id": self._id, "output_index": self._place}
        return {"type": "response.function_call_arguments.delta", **at, "delta": arguments}

    def end(self, status: str) -> Iterator[Event]:
        """The call is whole."""
        whole = {"item_id": self._id, "output_index": self._place, "name": self._name, "arguments": self._arguments}
        yield {"type": "response.function_call_arguments.done", **whole}
        yield {"type": "response.output_item.done", "output_index": self._place, "item": self.item(status)}

    def item(self, status: str) -> dict[str, Any]:
        """As it stands in ``output``."""
        called = {"call_id": self._call_id, "name": self._name, "arguments": self._arguments}
        return {"id": self._id, "type": "function_call", **called, "status": status}


class ResponseAnswer:
    """The response.

    Args:
        request: What was asked; parts of it are repeated in the response.
        model: The name of the model that answers.
        call: How the answer is parsed.
    """

    closing = ""

    def __init__(self, request: ResponsesRequest, model: str, call: Call) -> None:
        self._head = {**_head(request), "model": model}
        self._parser, self._several_calls = call.parser(), call.several_calls
        self._done: list[dict[str, Any]] = []
        self._open: TextItem | CallItem | None = None
        self._open_kind = ""
        self._log_probs: list[Any] = []  # of text that is held back
        self._usage, self._thought_tokens, self._thinking = Usage(), 0, True
        self._status = "in_progress"
        self._reason: dict[str, str] | None = None
        self._sequence = 0

    def begin(self) -> Iterable[Event]:
        """The response is there, without items."""
        for kind in ("response.created", "response.in_progress"):
            yield self._number({"type": kind, "response": self.body()})

    def take(self, number: int, delta: Delta) -> Iterable[Event]:
        """Yield the events that a delta makes."""
        self._usage.add(number, delta)
        self._log_probs += chat_log_probs(delta.log_probs)
        pieces = [self._parser.push(delta.text)]
        if delta.finish_reason:
            pieces.append(self._parser.finish())
            if delta.finish_reason == "length":
                self._reason = {"reason": "max_output_tokens"}
        for piece in pieces:
            self._thinking = self._thinking and not (piece.content or piece.calls)
            yield from map(self._number, self._piece(piece))
        if self._thinking:
            self._thought_tokens += delta.tokens

    def end(self) -> Iterable[Event]:
        """The response is whole, or it was cut off."""
        if not self._done and self._open is None:
            yield from map(self._number, self._begin("message", TextItem(0, thought=False)))
        self._status = "incomplete" if self._reason else "completed"
        yield from map(self._number, self._close(self._status))
        yield self._number({"type": f"response.{self._status}", "response": self.body()})

    def fail(self, error: ApiError) -> Event:
        """The event that ends a stream after an error; clients look for one in either form."""
        told = error.body()["error"]
        return self._number({**told, "type": "error", "error": told})

    def body(self) -> dict[str, Any]:
        """The response so far."""
        usage = None if self._status == "in_progress" else self._usage_body()
        state = {"status": self._status, "incomplete_details": self._reason, "error": None}
        return {**self._head, **state, "output": list(self._done), "usage": usage}

    def _piece(self, piece: DeltaMessage) -> Iterator[Event]:
        if piece.reasoning:
            self._log_probs = []
            yield from self._text("reasoning", piece.reasoning)
        if piece.content:
            yield from self._text("message", piece.content)
        for call in piece.calls:
            if self._several_calls or call.index == 0:
                yield from self._call(call)

    def _text(self, kind: str, text: str) -> Iterator[Event]:
        if self._open_kind != kind:
            yield from self._begin(kind, TextItem(self._places(), kind == "reasoning"))
        assert isinstance(self._open, TextItem)
        yield self._open.grow(text, self._log_probs)
        self._log_probs = []

    def _call(self, piece: DeltaToolCall) -> Iterator[Event]:
        if piece.name is not None:
            assert piece.id is not None
            yield from self._begin("call", CallItem(self._places(), piece.id, piece.name))
        assert isinstance(self._open, CallItem)
        yield self._open.grow(piece.arguments)

    def _places(self) -> int:
        """The place of the next item."""
        return len(self._done) + (self._open is not None)

    def _begin(self, kind: str, item: TextItem | CallItem) -> Iterator[Event]:
        yield from self._close("completed")
        self._open, self._open_kind = item, kind
        yield from item.begin()

    def _close(self, status: str) -> Iterator[Event]:
        item, self._open, self._open_kind = self._open, None, ""
        if item is not None:
            self._done.append(item.item(status))
            yield from item.end(status)

    def _number(self, event: Event) -> Event:
        self._sequence += 1
        return {**event, "sequence_number": self._sequence - 1}

    def _usage_body(self) -> dict[str, Any]:
        prompt, completion = self._usage.prompt, self._usage.completion
        thought = self._thought_tokens if any(item["type"] == "reasoning" for item in self._done) else 0
        return {
            "input_tokens": prompt,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": completion,
            "output_tokens_details": {"reasoning_tokens": thought},
            "total_tokens": prompt + completion,
        }


def _head(request: ResponsesRequest) -> dict[str, Any]:
    """What is known before the answer: the names of the response, and what was asked."""

    def dump(value: Any) -> Any:
        return value.model_dump(exclude_none=True, by_alias=True) if hasattr(value, "model_dump") else value

    return {
        "id": identity("resp_"),
        "object": "response",
        "created_at": int(time.time()),
        "background": False,
        "instructions": request.instructions,
        "max_output_tokens": request.max_output_tokens,
        "metadata": (request.model_extra or {}).get("metadata") or {},
        "parallel_tool_calls": request.parallel_tool_calls,
        "previous_response_id": None,
        "reasoning": {"effort": request.reasoning.effort, "summary": None},
        "store": False,
        "temperature": request.temperature,
        "text": dump(request.text),
        "tool_choice": dump(request.tool_choice) or "auto",
        "tools": [dump(tool) for tool in request.tools or ()],
        "top_logprobs": request.top_logprobs,
        "top_p": request.top_p,
        "truncation": request.truncation,
    }
