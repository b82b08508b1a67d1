# SPDX-License-Identifier: Apache-2.0
"""A conversation as the page shows it, and a response as it streams."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...chat.response_parser import ChatParser, DeltaMessage, DeltaToolCall, thinking_begun
from ...data.messages import Message, Part, ToolCall
from ..texts.texts import text as words

if TYPE_CHECKING:
    from ...chat.base_engine import Delta, Engine
    from ...data.template.base import Template

# How often a page gets new text, in seconds: each time its whole conversation is compared with what it has.
PAUSE = 0.05
# How often it gets the same once more: only then does gradio notice that the page has gone.
BEAT = 1.0

# Code, whose characters markdown shows as they are (fenced, or within a line).
_CODE = r"^ {0,3}(`{3,}).*?(?:^ {0,3}\2|\Z)|`[^`\n]+`"
# HTML that says how a text looks, and does nothing: no forms, no styles, nothing that is fetched.
_TAGS = (
    "a|abbr|b|blockquote|br|caption|center|code|dd|del|details|div|dl|dt|em|font|h[1-6]|hr|i|ins|kbd|li|mark|ol|p|pre|"
    "q|s|samp|small|span|strike|strong|sub|summary|sup|table|tbody|td|tfoot|th|thead|tr|tt|u|ul|var"
)
_ATTRIBUTES = (
    r"(?:align|color|colspan|dir|lang|rowspan|size|start|title|valign)\s*=\s*(?:\"[^\"<>]*\"|'[^'<>]*'|[^\s\"'<>=`]+)"
    r"|href\s*=\s*([\"']?)https?://[^\s\"'<>`]+\3|open|reversed"
)
_HARMLESS = rf"</?(?:{_TAGS})(?:\s+(?:{_ATTRIBUTES}))*\s*/?>"
_CODE_OR_TAG = re.compile(f"({_CODE})|<", re.MULTILINE | re.DOTALL)
_CODE_OR_HARM = re.compile(f"({_CODE}|{_HARMLESS})|<", re.MULTILINE | re.DOTALL | re.IGNORECASE)


@dataclass(frozen=True)
class Look:
    """How a conversation is shown.

    Attributes:
        escaped: HTML in answers is text; otherwise what is harmless of it is HTML.
        language: Of what the page itself says.
    """

    escaped: bool = True
    language: str = "en"


PLAIN = Look()


class StreamedResponse:
    """A response that comes in pieces.

    Args:
        template: How the model writes.
        parser: Splits it into thought, text and calls; ``None``: it is shown as it is, marks and all.
    """

    def __init__(self, template: Template, parser: ChatParser | None) -> None:
        self._template, self._parser = template, parser
        self.begun = False  # something came
        self.cut = ""  # the page's text that says why it ended before its end, if it did
        self._reasoning = self._text = ""
        self._calls: list[list[str | None]] = []  # name, arguments, id

    def push(self, text: str) -> None:
        """Take more text."""
        self.begun = True
        self._take(DeltaMessage(content=text) if self._parser is None else self._parser.push(text))

    def finish(self) -> None:
        """The response is over."""
        if self._parser is not None:
            self._take(self._parser.finish())

    def message(self) -> Message:
        """What came so far."""
        if self._parser is None:
            return self._template.parse(self._text)
        calls = tuple(ToolCall(str(name), str(arguments), id) for name, arguments, id in self._calls)
        parts = (Part("text", self._text),) if self._text or not calls else ()
        return Message("assistant", parts, calls, self._reasoning or None)

    def shown(self, over: bool, look: Look = PLAIN) -> list[dict[str, Any]]:
        """What came so far, for the page; an unfinished thought is open."""
        note = [_bubble("assistant", "", words(look.language, self.cut))] if self.cut and over else []
        if self._parser is None:
            return [_bubble("assistant", self._text, escaped=look.escaped), *note]
        message = self.message()
        return _assistant(message, not over and not message.text and not message.tool_calls, look) + note

    def _take(self, piece: DeltaMessage) -> None:
        self._reasoning += piece.reasoning
        self._text += piece.content
        for call in piece.calls:
            self._take_call(call)

    def _take_call(self, call: DeltaToolCall) -> None:
        if call.name is not None:
            self._calls.append([call.name, "", call.id])
        self._calls[call.index][1] = f"{self._calls[call.index][1]}{call.arguments}"


async def stream_response(
    engine: Engine,
    messages: Sequence[Message],
    tools: Sequence[dict],
    marks: bool,
    overrides: dict[str, Any],
    is_ending: Callable[[], bool] = lambda: False,
) -> AsyncGenerator[tuple[StreamedResponse, bool], None]:
    """Answer a conversation.

    Args:
        engine: Answers.
        messages: The conversation, the question last.
        tools: OpenAI tool objects.
        marks: Show the response as the model writes it, special tokens and all.
        overrides: See :class:`Engine`.
        is_ending: Whether the engine is about to be closed; the answer ends then as far as it came.

    Yields:
        The response so far, and whether it is over; now and then, with or without anything new, and at the end.

    Raises:
        ConfigError: The conversation cannot be answered.
    """
    template = engine.template
    parser = None
    if not marks and (template.thought is not None or tools):
        parser = ChatParser(template, tools, thinking_begun(template, messages, tools, overrides["enable_thinking"]))
    # Marks of thoughts and calls may be special tokens.
    skip = not marks and parser is None
    response = StreamedResponse(template, parser)
    async with aclosing(engine.stream(messages, tools, **overrides, skip_special_tokens=skip)) as deltas:
        waiting: asyncio.Future[Delta | None] | None = None
        shown_at, new = 0.0, False
        try:
            while not is_ending():
                waiting = waiting or asyncio.ensure_future(anext(deltas, None))
                await asyncio.wait({waiting}, timeout=PAUSE if new else BEAT)
                if waiting.done():
                    delta, waiting = waiting.result(), None
                    if delta is None:
                        break
                    response.push(delta.text)
                    response.cut = "chat.cut" if delta.finish_reason == "length" else ""
                    new = True
                    if time.monotonic() - shown_at < PAUSE:
                        continue
                yield response, False
                shown_at, new = time.monotonic(), False
            else:
                response.cut = "chat.unloaded"
        finally:
            if waiting is not None:
                waiting.cancel()
                await asyncio.wait({waiting})  # the request is closed then
    response.finish()
    yield response, True


def shown(messages: Sequence[Message], look: Look = PLAIN) -> list[dict[str, Any]]:
    """A whole conversation, for the page."""
    bubbles: list[dict[str, Any]] = []
    for message in messages:
        match message.role:
            case "assistant":
                bubbles += _assistant(message, False, look)
            case "tool":
                bubbles.append(_bubble("assistant", _block(message.text), words(look.language, "chat.tool_result")))
            case _:
                said = "".join(part.value if part.type == "text" else f"[{part.type}] " for part in message.parts)
                bubbles.append(_bubble("user", said))
    return bubbles


def message_at(messages: Sequence[Message], bubble: Any) -> int | None:
    """The place of the message that a bubble of :func:`shown` shows."""
    first = 0
    for place, message in enumerate(messages):
        count = len(shown([message]))
        if bubble in range(first, first + count):
            return place
        first += count
    return None


def _assistant(message: Message, thinking: bool, look: Look) -> list[dict[str, Any]]:
    """A thought, the text and the calls, each in a bubble of its own; only the text is not folded away."""
    bubbles = []
    if message.reasoning:
        status = "pending" if thinking else "done"
        bubbles.append(_bubble("assistant", message.reasoning, words(look.language, "chat.thought"), status=status))
    if message.text or not (message.reasoning or message.tool_calls):
        bubbles.append(_bubble("assistant", message.text, escaped=look.escaped))
    for call in message.tool_calls:
        arguments = call.arguments if isinstance(call.arguments, str) else json.dumps(call.arguments)
        title = words(look.language, "chat.call").format(name=call.name)
        bubbles.append(_bubble("assistant", _block(arguments), title))
    return bubbles


def _bubble(role: str, text: str, title: str | None = None, escaped: bool = True, **metadata: str) -> dict[str, Any]:
    bubble: dict[str, Any] = {"role": role, "content": escape(text, escaped)}
    if title is not None:
        bubble["metadata"] = {"title": escape(title), **metadata}
    return bubble


def _block(text: str) -> str:
    """A code block that the text cannot leave."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}json\n{text}\n{fence}"


def escape(text: str, everything: bool = True) -> str:
    """Markdown whose HTML is shown, not rendered; code keeps its characters, which markdown shows as they are.

    Args:
        text: Markdown.
        everything: Not only HTML that could do something.
    """
    return (_CODE_OR_TAG if everything else _CODE_OR_HARM).sub(lambda found: found[1] or "&lt;", text)
