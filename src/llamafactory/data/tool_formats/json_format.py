# SPDX-License-Identifier: Apache-2.0
"""Tool dialects whose tools are JSON between literal marks, and whose arguments are, too, or stand one by one."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ...extras.errors import ConfigError
from ..messages import ToolCall
from ..template.base import GLUE, Piece
from ..template.chat_template import Values, fill
from .listing import write_listing
from .values import read_arguments, read_gemma, sort_keys, write_value


@dataclass(frozen=True)
class JsonToolFormat:
    """One dialect.

    Attributes:
        head: Before the tool list.
        tool: One tool; slots ``{{tool}}`` (OpenAI tool object) or ``{{function}}`` (the object inside it),
            ``{{name}}``.
        join: Between tools.
        tail: After the tool list.
        listing: Jinja that writes the tool list where ``head`` to ``tail`` cannot: macros, and what writes ``tools``.
        marks: Special tokens that ``listing`` writes.
        indent: Spaces of indented JSON in the tool list; ``None`` for one line.
        content_join: Between a turn's text and its calls.
        calls_open: Before the first call.
        call: One call; slots ``{{name}}``, ``{{arguments}}``, ``{{id}}``.
        call_join: Between calls.
        calls_close: After the last call.
        several: Put around the calls when there is more than one.
        argument: One argument with slots ``{{key}}`` and ``{{value}}``; ``None``: all are one JSON object.
        argument_join: Between arguments.
        values: How a value stands in ``argument``; strings as they are and all else JSON (``text``), the same with
            Python's ``True`` and ``None`` (``python``), strings quoted as Python
            does (``quoted``), or Gemma 4's own marks, keys in alphabetical order (``gemma``).
        start: Regular expression that ends where the JSON of a call starts, or of a list of calls; the group ``name``
            (and ``id``) when the name is not part of the JSON.
    """

    call: str
    start: str
    head: str = ""
    tool: str = ""
    join: str = ""
    tail: str = ""
    listing: tuple[str, str] | None = None
    marks: tuple[str, ...] = ()
    indent: int | None = None
    content_join: str = ""
    calls_open: str = ""
    call_join: str = ""
    calls_close: str = ""
    several: tuple[str, str] = ("", "")
    argument: str | None = None
    argument_join: str = ""
    values: Literal["text", "python", "quoted", "gemma"] = "text"

    def describe(self, tools: Sequence[dict[str, Any]]) -> str:
        """The tool list as the model reads it."""
        return "".join(piece.text for piece in self.describe_pieces(tools))

    def render(self, calls: Sequence[ToolCall]) -> str:
        """Calls as the model writes them."""
        return "".join(piece.text for piece in self.call_pieces(calls, GLUE, 0))

    def parse(self, text: str, tools: Sequence[dict[str, Any]] = ()) -> list[ToolCall]:
        """The calls in a response; what cannot be read as a call is none."""
        return self.split(text, tools)[1]

    def split(self, text: str, tools: Sequence[dict[str, Any]] = ()) -> tuple[str, list[ToolCall]]:
        """Tell a response's text from its calls.

        Args:
            text: What the model wrote.
            tools: OpenAI tool objects; where values are written without quotes, they tell ``"1"`` from ``1``.
        """
        calls: list[ToolCall] = []
        content, position = text, 0
        while found := re.compile(self.start, re.MULTILINE).search(text, position):
            new, position = _read_calls(text, found) if self.argument is None else self.read_call(text, found, tools)
            if new and not calls:
                content = text[: found.start()].removesuffix(self.calls_open).removesuffix(self.content_join)
            calls += new
        return content, calls

    def describe_pieces(self, tools: Sequence[dict[str, Any]]) -> Iterator[Piece]:
        """:meth:`describe`, with the data told from the literals."""
        if self.listing is not None:
            source = json.dumps(list(tools), ensure_ascii=False)
            yield from (
                Piece(text, GLUE, False, mark) for text, mark in write_listing(self.listing, self.marks, source)
            )
            return
        yield from fill(self.head, GLUE, False, {})
        for number, tool in enumerate(tools):
            function = tool.get("function", tool)
            whole = {"type": "function", "function": function}
            values: Values = {"tool": _dump(whole, self.indent), "function": _dump(function, self.indent)}
            yield from fill(self.join if number else "", GLUE, False, {})
            yield from fill(self.tool, GLUE, False, {**values, "name": function["name"]})
        yield from fill(self.tail, GLUE, False, {})

    def call_pieces(self, calls: Sequence[ToolCall], message: int, first: int) -> Iterator[Piece]:
        """:meth:`render`, with the data told from the literals.

        Args:
            calls: Calls of one turn.
            message: Index of that turn.
            first: How many calls came before in the conversation; numbers calls that have no id.
        """
        before, after = self.several if len(calls) > 1 else ("", "")
        yield from fill(self.calls_open + before, message, True, {})
        for number, call in enumerate(calls):
            arguments = self.argument_pieces(call, message)
            yield from fill(self.call_join if number else "", message, True, {})
            identity = call.id or call_number(first + number)
            yield from fill(self.call, message, True, {"name": call.name, "arguments": arguments, "id": identity})
        yield from fill(after + self.calls_close, message, True, {})

    def argument_pieces(self, call: ToolCall, message: int) -> str | list[Piece]:
        """The arguments of one call; raises ConfigError where they are text that is no JSON object."""
        arguments = call.arguments
        if self.argument is None:
            return arguments if isinstance(arguments, str) else _dump(arguments, None)
        if isinstance(arguments, str):
            arguments = _loads(arguments)
            if not isinstance(arguments, dict):
                raise ConfigError(
                    f"tool_calls: arguments of {call.name!r} must be a JSON object, got {call.arguments!r}"
                )
        pieces: list[Piece] = []
        for number, (key, value) in enumerate(sort_keys(arguments) if self.values == "gemma" else arguments.items()):
            pieces += fill(self.argument_join if number else "", message, True, {})
            pieces += fill(self.argument, message, True, {"key": key, "value": write_value(value, self.values)})
        return pieces

    def read_call(self, text: str, found: re.Match[str], tools: Sequence[dict[str, Any]]) -> tuple[list[ToolCall], int]:
        """Read a call whose arguments stand one by one, from where ``start`` ended; returns it and where it ends."""
        name, close = found["name"], self.call.partition("{{arguments}}")[2]
        functions = [tool.get("function", tool) for tool in tools]
        schema = next((one.get("parameters") for one in functions if one["name"] == name), None) or {}
        assert self.argument is not None
        read = (
            read_gemma(text, found.end())
            if self.values == "gemma"
            else read_arguments(text, found.end(), (self.argument, self.argument_join, close), self.values, schema)
        )
        return ([], found.end()) if read is None else ([ToolCall(name, read[0])], read[1])


def call_number(index: int) -> str:
    """The id of a call that has none: its number in the conversation, nine digits."""
    return ("00000000" + str(index))[-9:]


def _loads(text: str) -> Any:
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        return None


def _dump(value: Any, indent: int | None) -> str:
    """JSON as the ``tojson`` filter of transformers writes it."""
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _read_calls(text: str, found: re.Match[str]) -> tuple[list[ToolCall], int]:
    """Read the JSON at the end of a match; returns the calls and where to search on."""
    try:
        value, end = json.JSONDecoder().raw_decode(text, found.end())
    except (json.JSONDecodeError, RecursionError):
        return [], max(found.end(), found.start() + 1)
    groups = found.groupdict()
    if "name" in groups:
        value = {"name": groups["name"], "arguments": value, "id": groups.get("id")}
    calls = []
    for call in value if isinstance(value, list) else [value]:
        if not isinstance(call, dict) or not isinstance(call.get("name"), str):
            return [], end
        arguments = call.get("arguments", call.get("parameters", {}))
        if not isinstance(arguments, dict):
            return [], end
        calls.append(ToolCall(call["name"], arguments, call.get("id")))
    return calls, end
