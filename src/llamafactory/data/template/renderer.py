# SPDX-License-Identifier: Apache-2.0
"""From a conversation and a template's literals to the pieces of its text.

`jinja_writer` writes the same program as Jinja; a change here needs its twin there (the tests compare both).
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from ...extras.errors import ConfigError
from ..tool_formats.json_format import call_number
from .base import GLUE, Options, Piece, ToolFormat
from .chat_template import ChatTemplate, fill, slots

if TYPE_CHECKING:
    from ..messages import Message

_logger = logging.getLogger(__name__)

# The words around a thought in most families.
THOUGHT = ("<think>\n", "\n</think>\n\n")
_WRITTEN = re.compile(rf"(?s)^.*?{THOUGHT[1].strip()}\W?\n*")


@cache
def _warn_of_dropped_thoughts(name: str) -> None:
    _logger.warning("template %s writes no thoughts: the reasoning_content of messages is left out", name)


def _data(text: str, message: int, trained: bool = False) -> list[Piece]:
    return [Piece(text, message, trained, False)] if text else []


def render_pieces(
    chat: ChatTemplate,
    tool_format: ToolFormat,
    messages: Sequence[Message],
    tools: Sequence[dict[str, Any]],
    options: Options,
) -> list[Piece]:
    """Render one conversation.

    Args:
        chat: Literals, with ``{{bos}}`` and ``{{eos}}`` replaced.
        tool_format: How the tool list and calls are written.
        messages: The conversation.
        tools: OpenAI tool objects.
        options: Thinking and the generation prompt.

    Raises:
        ConfigError: The template has no place for something in the conversation.
    """
    if options.for_training:
        options = _asking(chat, messages, options)
    return _Renderer(chat, tool_format, messages, tools, options).run()


def _asking(chat: ChatTemplate, messages: Sequence[Message], options: Options) -> Options:
    """How the last answer is asked for: one with a thought is not asked with a prompt that closes the thought."""
    last = messages[-1] if messages else None
    if chat.thought is None or last is None or last.role != "assistant" or options.enable_thinking is False:
        return options
    reasoning, _ = split_thought(last.text, last.reasoning, chat.thought)
    return options.switched(True) if reasoning.strip() and _closes(chat, thought_prompt(chat, options)) else options


class _Renderer:
    def __init__(
        self,
        chat: ChatTemplate,
        tool_format: ToolFormat,
        messages: Sequence[Message],
        tools: Sequence[dict[str, Any]],
        options: Options,
    ) -> None:
        self.chat, self.tool_format, self.messages, self.options = chat, tool_format, messages, options
        users = [index for index, message in enumerate(messages) if message.role == "user"]
        self.first_user = users[0] if users else None
        self.last_user = users[-1] if users else len(messages) - 1
        self.tools = list(tool_format.describe_pieces(tools)) if tools else []
        self.merged: list[Piece] = []
        self.calls = self.results = 0
        self.names: list[str] = []
        self.out: list[Piece] = []
        needs_user = "the tool list" if self.tools and chat.tools_in in ("first_user", "before_last_user") else None
        if chat.merge_system is not None and messages and messages[0].role == "system":
            needs_user = "the system text"
        if needs_user and not users:
            raise ConfigError(f"template {chat.name}: {needs_user} goes into a user turn, and there is none")

    def run(self) -> list[Piece]:
        chat, messages = self.chat, self.messages
        self.write((chat.prefix_with_tools if self.tools else None) or chat.prefix, GLUE)
        skip = self.open_system()
        turns = {"system": self.system, "user": self.user, "assistant": self.assistant, "tool": self.tool}
        for index in range(skip, len(messages)):
            turns[messages[index].role](index, messages[index])
        if self.options.add_generation_prompt:
            self.write(self.header(len(messages)), GLUE)
            self.write(self.prompt_end(len(messages)), GLUE)
        else:
            self.write(chat.suffix, GLUE)
        return self.out

    def write(self, literal: str, message: int, trained: bool = False, **values: str | list[Piece]) -> None:
        self.out.extend(fill(literal, message, trained, values))

    def text(self, message: Message) -> str:
        for part in message.parts:
            if part.type != "text":
                raise ConfigError(
                    f"template {self.chat.name}: a message holds {part.type}, but this template is for text"
                )
        return message.text.strip() if message.role in self.chat.strip else message.text

    def open_system(self) -> int:
        """Write or keep the leading system text and the tools that go with it; return how many messages that took."""
        chat, messages = self.chat, self.messages
        given = bool(messages) and messages[0].role == "system"
        leading = [0] if given else []
        if chat.gather_system is not None:
            leading = [index for index, message in enumerate(messages) if message.role == "system"]
        if chat.skip_empty_system:
            leading = [index for index in leading if self.text(messages[index])]
        index = leading[0] if leading else GLUE
        if self.tools and chat.tools_in == "turn_before_system":
            self.write(chat.tools_turn, GLUE, content=self.tools)
        content: list[Piece] = []
        for number, place in enumerate(leading):
            content += [Piece(chat.gather_system or "", place, False, True)] if number else []
            content += _data(self.text(messages[place]), place)
        default = chat.default_system if chat.default_beside_tools or not self.tools else None
        if not leading and default is not None:
            content += _data(default, GLUE)
        exists = bool(leading) or default is not None
        join = [Piece(chat.tools_join, GLUE, False, True)] if exists else []
        if self.tools and chat.tools_in == "system":
            content = content + join + self.tools
        elif self.tools and chat.tools_in == "before_system":
            content = self.tools + (join + content if content else [])
        if self.options.asked and chat.asked_system:
            content = [Piece(chat.asked_system, GLUE, False, True), *content]
        if content or exists:
            if chat.merge_system is not None:
                self.merged = list(fill(chat.merge_system, index, False, {"content": content}))
            else:
                literal = chat.first_system_with_tools if self.tools else None
                literal = literal if exists else chat.tools_alone or literal
                self.write(literal or chat.first_system or chat.system, index, content=content)
        elif chat.merge_system is None:
            self.write(chat.no_system, GLUE)
        if self.tools and chat.tools_in == "turn_after_system":
            self.write(chat.tools_turn, GLUE, content=self.tools)
        return int(given)

    def system(self, index: int, message: Message) -> None:
        if self.chat.gather_system is not None:
            return
        if self.chat.merge_system is not None:
            raise ConfigError(f"template {self.chat.name}: a system message can only come first")
        self.write(self.chat.system, index, content=self.text(message))

    def user(self, index: int, message: Message) -> None:
        chat = self.chat
        content = _data(self.text(message), index)
        if index == self.first_user:
            content = self.merged + content
            if chat.tools_in == "first_user":
                content = self.tools + content
        if "user_turn" in chat.strip:
            content = strip_pieces(content)
        if chat.user_no_thinking and self.options.enable_thinking is not True:
            content.append(Piece(chat.user_no_thinking, index, False, True))
        if chat.tools_in == "before_last_user" and index == self.last_user:
            self.out += self.tools
        self.write(chat.user, index, content=content)

    def header(self, index: int) -> str:
        """What stands before an assistant turn at this place."""
        return (self.chat.generation_after_tool or "") if self.continues(index) else self.chat.generation

    def prompt_end(self, index: int) -> str:
        """What the prompt for an assistant turn at this place ends with, behind its header."""
        if self.chat.thought is None:
            return ""
        return (after_tool_prompt if self.continues(index) else thought_prompt)(self.chat, self.options)

    def continues(self, index: int) -> bool:
        """Whether an assistant turn at this place goes on after a tool's result, without a start of its own."""
        after_tool = index > 0 and self.messages[index - 1].role == "tool"
        return after_tool and self.chat.generation_after_tool is not None

    def assistant(self, index: int, message: Message) -> None:
        self.write(self.header(index), index)
        start = len(self.out)
        thought, text = self.thought(index, message)
        body: list[Piece] = []
        if text or not message.tool_calls:
            body += fill(self.chat.text_start, index, True, {})
        body += _data(text, index, True)
        if message.tool_calls:
            joined = self.tool_format.content_join if text else ""
            body += [piece._replace(is_call=True) for piece in fill(joined, index, True, {})]
            calls = self.tool_format.call_pieces(message.tool_calls, index, self.calls)
            body += [piece._replace(is_call=True) for piece in calls]
            self.calls += len(message.tool_calls)
        before, _, after = slots(self.chat.assistant)
        last = index == len(self.messages) - 1 and not self.options.add_generation_prompt
        ends_calls = bool(message.tool_calls) and self.chat.calls_end is not None
        self.names = [call.name for call in message.tool_calls]
        self.write(before, index, True)
        self.out += thought
        lead = len(self.out)
        self.out += body
        end = (self.chat.calls_end or "") if ends_calls else (last and self.chat.end) or after
        self.out += [piece._replace(is_call=bool(message.tool_calls)) for piece in fill(end, index, True, {})]
        self.write("" if ends_calls else self.chat.gap, index)
        if self.options.for_training and self.chat.thought is not None:
            self.follow_prompt(index, start, lead)

    def follow_prompt(self, index: int, start: int, lead: int) -> None:
        """Let an answer begin to be trained where its prompt ends.

        The last answer is also made to follow that prompt where the official text shows it otherwise: behind a thought
        that is closed comes the text, and one that is open is written to its end.

        Args:
            index: Of the message.
            start: First piece of ``out`` behind the header of the answer.
            lead: First piece behind its thought.
        """
        prompt, written = self.prompt_end(index), self.out[start:]
        if not "".join([piece.text for piece in written]).startswith(prompt):
            if index < len(self.messages) - 1:
                return  # it does not stand as it was asked for: `Template.rewritten`
            written = [Piece(prompt, index, False, True), *self.rest_of_thought(prompt, index), *self.out[lead:]]
        self.out[start:] = train_from(written, len(prompt))

    def rest_of_thought(self, prompt: str, index: int) -> list[Piece]:
        """The thought of an answer behind a prompt that opened or closed it."""
        assert self.chat.thought is not None
        if _closes(self.chat, prompt):
            return []
        opening, closing = self.chat.thought
        rest = opening[len(prompt) :] if opening.startswith(prompt) else ""
        return [Piece(word, index, True, True) for word in (rest, closing) if word]

    def thought(self, index: int, message: Message) -> tuple[list[Piece], str]:
        """The thought as it is written at this place, and the text without it."""
        text = self.text(message)
        if self.chat.thought is None:
            if message.reasoning:
                _warn_of_dropped_thoughts(self.chat.name)
            return [], text
        opening, closing = self.chat.thought
        inline = message.reasoning is None and closing.strip() in text
        reasoning, text = split_thought(text, message.reasoning, self.chat.thought)
        if self.options.enable_thinking is False:
            reasoning = ""
        last = index == len(self.messages) - 1
        empty = {"last": last, "open": True, "never": False}[self.chat.empty_thought] and not self.continues(index)
        here = self.options.preserve_thinking or self.chat.keep_thoughts or index > self.last_user
        if "assistant" in self.chat.strip:
            text = text.strip()
        if not here or not (reasoning or empty):
            shown = "" if self.continues(index) else self.chat.no_thought
            dropped = list(fill(shown, index, True, {}))
            return dropped, text.lstrip("\n") if inline and "answer" in self.chat.strip else text
        pieces = [Piece(opening, index, True, True)]
        pieces += _data(reasoning.strip(None if "thought" in self.chat.strip else "\n"), index, True)
        pieces.append(Piece(closing, index, True, True))
        return pieces, text.lstrip("\n")

    def tool(self, index: int, message: Message) -> None:
        chat, messages = self.chat, self.messages
        opens = index == 0 or messages[index - 1].role != "tool"
        closes = index + 1 == len(messages) or messages[index + 1].role != "tool"
        self.write(chat.tool_open if opens else chat.tool_join, index)
        number = message.tool_call_id or call_number(self.results)
        self.results += 1
        text = self.text(message)
        name = self.names.pop(0) if self.names else ""
        self.write(chat.tool, index, content=text, json=json.dumps(text, ensure_ascii=False), id=number, name=name)
        self.write(chat.tool_close if closes else "", index)


def thought_prompt(chat: ChatTemplate, options: Options) -> str:
    """What the generation prompt of a family that thinks ends with."""
    if options.enable_thinking is not True:
        return closed_thought(chat)
    return chat.asked_prompt if options.asked and chat.asked_prompt is not None else chat.thought_prompt


def after_tool_prompt(chat: ChatTemplate, options: Options) -> str:
    """The same where the answer goes on in the turn of a tool's result."""
    return chat.asked_after_tool if options.asked else ""


def closed_thought(chat: ChatTemplate) -> str:
    """What the generation prompt of a family that thinks ends with while thinking is off."""
    if chat.no_thought_prompt is not None:
        return chat.no_thought_prompt
    return chat.no_thought or "".join(chat.thought or ())


def _closes(chat: ChatTemplate, prompt: str) -> bool:
    """Whether the thought is over at the end of a prompt."""
    return chat.thought is not None and chat.thought[1].strip() in prompt


def split_thought(text: str, reasoning: str | None, words: tuple[str, str]) -> tuple[str, str]:
    """Tell the thought from the text after it.

    Line breaks around the thought go; those before the text stay.

    Args:
        text: Text of the turn.
        reasoning: The thought, when the data keeps it apart; the text is then without it.
        words: What opens and closes a thought, with the line breaks around it.
    """
    if reasoning is not None:
        return reasoning, text
    opening, closing = (word.strip() for word in words)
    if closing not in text:
        return "", text
    before = text.split(closing)[0].rstrip("\n").split(opening)[-1].lstrip("\n")
    return before, text.split(closing)[-1]


def train_from(pieces: list[Piece], start: int) -> list[Piece]:
    """Leave the first ``start`` characters untrained, and train the next ones at once.

    What is not trained behind the answer stays so.
    """
    out: list[Piece] = []
    begun = False
    for piece in pieces:
        before, behind = piece.text[:start], piece.text[start:]
        start -= len(before)
        if before:
            out.append(piece._replace(text=before, trained=False))
        if behind:
            out.append(piece._replace(text=behind, trained=piece.trained or not begun))
            begun = begun or piece.trained
    return out


def strip_pieces(pieces: list[Piece]) -> list[Piece]:
    """Strip white space at both ends of the joined text."""
    while pieces and not (text := pieces[0].text.lstrip()):
        pieces = pieces[1:]
    if pieces:
        pieces = [pieces[0]._replace(text=text), *pieces[1:]]
    while pieces and not (text := pieces[-1].text.rstrip()):
        pieces = pieces[:-1]
    return [*pieces[:-1], pieces[-1]._replace(text=text)] if pieces else []


def has_thought(message: dict[str, Any]) -> bool:
    """Whether an OpenAI message has a thought, in its own field or in its text."""
    return bool(message.get("reasoning_content") or THOUGHT[1].strip() in str(message["content"] or ""))


def without_thought(message: dict[str, Any]) -> dict[str, Any]:
    """The message without its thought."""
    content = message["content"]
    if isinstance(content, str):
        content = _WRITTEN.sub("", content)
    thoughts = ("reasoning_content", "thinking", "reasoning")
    return {name: value for name, value in message.items() if name not in thoughts} | {"content": content}
