# SPDX-License-Identifier: Apache-2.0
"""From the text of a response, as it comes, to reasoning, content and tool calls."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from ..data.formats.media import with_markers

if TYPE_CHECKING:
    from ..data.messages import Message, ToolCall
    from ..data.template.base import Template, ToolFormat


@dataclass(frozen=True)
class DeltaToolCall:
    """A piece of one tool call: its start has a name, the others more of the arguments' JSON text."""

    index: int
    arguments: str
    name: str | None = None
    id: str | None = None


@dataclass(frozen=True)
class DeltaMessage:
    """What became certain of a message."""

    reasoning: str = ""
    content: str = ""
    calls: tuple[DeltaToolCall, ...] = ()


class ResponseParser(Protocol):
    """Reasoning and tool-call parser of one response."""

    def push(self, text: str) -> DeltaMessage:
        """Take more text."""
        ...

    def finish(self) -> DeltaMessage:
        """The response is over: give what was held back."""
        ...


def _whole_call(index: int, name: str, arguments: str) -> DeltaToolCall:
    return DeltaToolCall(index, arguments, name, f"call_{secrets.token_hex(12)}")


class PlainParser:
    """A response whose text is content and nothing else."""

    def push(self, text: str) -> DeltaMessage:
        return DeltaMessage(content=text)

    def finish(self) -> DeltaMessage:
        return DeltaMessage()


class NamedCallParser:
    """A response that is the arguments of one known function."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._begun = False

    def push(self, text: str) -> DeltaMessage:
        if self._begun:
            return DeltaMessage(calls=(DeltaToolCall(0, text),) if text else ())
        self._begun = True
        return DeltaMessage(calls=(_whole_call(0, self._name, text),))

    def finish(self) -> DeltaMessage:
        return DeltaMessage() if self._begun else self.push("")


class AnyCallParser:
    """A response that is ``{"name": ..., "arguments": {...}}``; one that was cut off is content."""

    def __init__(self) -> None:
        self._text = ""

    def push(self, text: str) -> DeltaMessage:
        self._text += text
        return DeltaMessage()

    def finish(self) -> DeltaMessage:
        try:
            call = json.loads(self._text)
        except (json.JSONDecodeError, RecursionError):
            return DeltaMessage(content=self._text)
        return DeltaMessage(calls=(_whole_call(0, call["name"], json.dumps(call["arguments"], ensure_ascii=False)),))


class ChatParser:
    """A response in a template's own words.

    Text is given out when nothing that follows can make it a mark: of a thought, a call, or the end of the turn.

    Args:
        template: Tells the marks.
        tools: OpenAI tool objects; without any, calls are text.
        thinking: The prompt has opened a thought.
    """

    def __init__(self, template: Template, tools: Sequence[dict[str, Any]], thinking: bool) -> None:
        self._template, self._tools = template, tools
        dialect = template.tool_format
        self._marks = call_marks(dialect) if tools else None
        self._joined = (dialect.content_join + _call_start(dialect),) if tools and dialect.content_join else ()
        self._step = self._thought if thinking else self._start
        self._held = ""  # of the thought, or what stands before the text
        self._text = ""  # all after the thought
        self._shown = 0  # characters of it that were given out
        self._thought_shown = False
        self._calls = 0
        self._over = False

    def push(self, text: str) -> DeltaMessage:
        self._held += text
        return self._step()

    def finish(self) -> DeltaMessage:
        self._over = True
        for end in self._template.ends:
            self._held = self._held.removesuffix(end)
            if not self._held:
                self._text = self._text[: self._shown] + self._text[self._shown :].removesuffix(end)
        return self._step()

    def _start(self) -> DeltaMessage:
        """Whether a thought comes first."""
        text = self._held.lstrip()
        if self._template.thought is not None:
            opening = self._template.thought[0]
            if text.startswith(opening):
                self._held = text.removeprefix(opening)
                self._step = self._thought
                return self._step()
            if opening.startswith(text) and not self._over:
                return DeltaMessage()
        if not self._over and any(one.startswith(self._held) for one in self._template.openings):
            return DeltaMessage()
        return self._begin_content()

    def _begin_content(self) -> DeltaMessage:
        for opening in self._template.openings:
            self._held = self._held.removeprefix(opening)
        self._step = self._content
        return self._step()

    def _thought(self) -> DeltaMessage:
        assert self._template.thought is not None
        closing = self._template.thought[1]
        if not self._thought_shown:
            self._held = self._held.lstrip("\n")
        thought, found, rest = self._held.partition(closing)
        if found:
            thought = thought.rstrip("\n")
            self._held = rest
            self._step = self._after_thought
            after = self._step()
            return DeltaMessage(thought + after.reasoning, after.content, after.calls)
        keep = 0 if self._over else _beginning(thought, (closing, *self._template.ends))
        shown = thought[: len(thought) - keep].rstrip("\n")
        self._held = self._held[len(shown) :]
        self._thought_shown = self._thought_shown or bool(shown)
        return DeltaMessage(reasoning=shown)

    def _after_thought(self) -> DeltaMessage:
        """Line breaks after a thought belong to its marks."""
        self._held = self._held.lstrip("\n")
        if not self._over and any(one.startswith(self._held) for one in ("", *self._template.openings)):
            return DeltaMessage()
        return self._begin_content()

    def _content(self) -> DeltaMessage:
        """Text, until something that may be a call begins."""
        self._text += self._held
        self._held = ""
        at = self._first_mark()
        if at is not None:
            return self._read_calls()
        end = len(self._text)
        if not self._over:
            end -= self._undecided(self._text[self._shown :])
        return self._show(end)

    def _undecided(self, text: str) -> int:
        """How much of the end of ``text`` may belong to the end of the turn, or to a call and what joins it on."""
        ends = self._template.ends
        keep = _beginning(text, (*ends, *(self._marks or ()), *self._joined))
        while closed := next((end for end in ends if text[: len(text) - keep].endswith(end)), ""):
            keep += len(closed)  # one end after another
        if self._marks is not None:  # white space before a call belongs to it
            rest = text[: len(text) - keep]
            keep += len(rest) - len(rest.rstrip())
        return keep

    def _first_mark(self) -> int | None:
        if self._marks is None:
            return None
        found = [at for mark in self._marks if (at := self._text.find(mark, self._shown)) >= 0]
        return min(found, default=None) if self._marks else 0

    def _read_calls(self) -> DeltaMessage:
        text, calls = self._template.tool_format.split(self._text, self._tools)
        if calls:
            new = tuple(_of_tool_call(self._calls + i, call) for i, call in enumerate(calls[self._calls :]))
            content = text[self._shown :] if not self._calls else ""
            self._calls += len(new)
            return DeltaMessage(content=content, calls=new)
        return self._show(len(self._text)) if self._over else DeltaMessage()

    def _show(self, end: int) -> DeltaMessage:
        content, self._shown = self._text[self._shown : end], end
        return DeltaMessage(content=content)


def _of_tool_call(index: int, call: ToolCall) -> DeltaToolCall:
    arguments = call.arguments
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return _whole_call(index, call.name, text)


def thinking_begun(
    template: Template, messages: Sequence[Message], tools: Sequence[dict[str, Any]], enable_thinking: bool | None
) -> bool:
    """Whether the prompt of a conversation opens a thought, so that the response begins inside one."""
    if template.thought is None:
        return False
    flags = {} if enable_thinking is None else {"enable_thinking": enable_thinking}
    prompt = template.render(with_markers(messages), tools, add_generation_prompt=True, **flags)
    return prompt.rstrip().endswith(template.thought[0])


def call_marks(tool_format: ToolFormat) -> tuple[str, ...]:
    """Words with which the calls of a dialect begin; empty where anything may be the beginning of one."""
    found = re.match(r'[^\s"{(]*', _call_start(tool_format).strip())
    word = found[0] if found else ""
    start = re.compile(tool_format.start, re.MULTILINE)
    bare = [mark for mark in ("<|python_tag|>", "[", "{") if _begins_call(start, mark)]
    if word in bare or not word:
        return tuple(bare)
    return (word, *bare)


def _call_start(tool_format: ToolFormat) -> str:
    return (tool_format.calls_open + tool_format.call).partition("{{")[0]


def _begins_call(start: re.Pattern[str], mark: str) -> bool:
    example = '{"name": "f", "arguments": {}}'
    return start.match(mark.removesuffix("{") + example) is not None


def _beginning(text: str, marks: Sequence[str]) -> int:
    """Length of the longest ending of ``text`` that is, or begins, one of ``marks``."""
    keep = 0
    for mark in marks:
        sizes = range(min(len(mark), len(text)), keep, -1)
        keep = next((size for size in sizes if text.endswith(mark[:size])), keep)
    return keep
