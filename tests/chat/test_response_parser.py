# SPDX-License-Identifier: Apache-2.0
"""Answers that arrive in pieces are read as the template reads the whole, and no mark ever shows."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import pytest

from llamafactory import plugins
from llamafactory.chat.response_parser import AnyCallParser, ChatParser, NamedCallParser, ResponseParser
from llamafactory.data.messages import Message, ToolCall

TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}]
CALLS = (ToolCall("add", {"a": 1, "b": 2}), ToolCall("find", {"text": "x {y} [z]\n<b>", "deep": {"k": [1, None]}}))
REASONING = "Let me see.\n\nThere are 2 < 3 things [a]."
TEXT = "Well: 1 < 2, and\n\nthat is it."


def read(parser: ResponseParser, text: str, sizes: list[int]) -> tuple[str, str, list[tuple[str, Any]]]:
    """Feed the text in pieces of these sizes, again and again; return thought, text, calls."""
    pieces, position, turn = [], 0, 0
    while position < len(text):
        pieces.append(parser.push(text[position : position + sizes[turn % len(sizes)]]))
        position += sizes[turn % len(sizes)]
        turn += 1
    pieces.append(parser.finish())
    calls: list[list[str]] = []
    for piece in pieces:
        for call in piece.calls:
            if call.name is not None:
                assert call.index == len(calls) and call.id
                calls.append([call.name, ""])
            calls[call.index][1] += call.arguments
    reasoning = "".join(piece.reasoning for piece in pieces)
    return reasoning, "".join(piece.content for piece in pieces), [(name, json.loads(text)) for name, text in calls]


def whole(message: Message) -> tuple[str, str, list[tuple[str, Any]]]:
    calls = [(call.name, call.arguments) for call in message.tool_calls]
    return message.reasoning or "", message.text, calls


# One template of each kind of thought, of ending, of place for the tools, and of every tool dialect.
NAMES = sorted(plugins.TEMPLATES)


@pytest.fixture(scope="module")
def templates(make_template: Callable[[str], Any]) -> dict[str, Any]:
    found = {}
    dialects = set()
    for name in NAMES:
        chat: Any = plugins.resolve("templates", name)
        kind = (chat.tool_format, chat.thought, chat.text_start, chat.assistant.partition("{{content}}")[2])
        if kind not in dialects:
            dialects.add(kind)
            found[name] = make_template(name)
    assert len({template.tool_format for template in found.values()}) > 15
    return found


def answer_of(template: Any, message: Message, tools: Any) -> str | None:
    """What a trained model writes after the generation prompt, None where it would not write this message there."""
    question = Message.of("user", "q")
    prompt = template.render([question], tools, add_generation_prompt=True)
    text = template.render([question, message], tools)
    return text.removeprefix(prompt) if text.startswith(prompt) else None


def test_pieces_are_read_as_the_whole(templates: dict[str, Any]) -> None:
    """The oracle is ``template.parse`` of the whole text."""
    generator = random.Random(0)
    seen = {"thought": 0, "calls": 0}
    for name, template in templates.items():
        for message in (
            Message.of("assistant", TEXT),
            Message.of("assistant", TEXT, reasoning=REASONING),
            Message.of("assistant", TEXT, tool_calls=CALLS[:1]),
            Message("assistant", (), CALLS[:1]),
            Message("assistant", (), CALLS, reasoning=REASONING),
        ):
            thinking = template.thought is not None and template.render(
                [Message.of("user", "q")], TOOLS, add_generation_prompt=True
            ).rstrip().endswith(template.thought[0])
            text = answer_of(template, message, TOOLS)
            if text is None:
                continue
            expected = whole(template.parse(template.thought[0] + text if thinking else text))
            for sizes in ([1], [len(text) or 1], [generator.randint(1, 9) for _ in range(20)]):
                found = read(ChatParser(template, TOOLS, thinking), text, sizes)
                assert found == expected, (name, text, sizes)
            seen["thought"] += bool(expected[0])
            seen["calls"] += bool(expected[2])
    assert seen["thought"] > 10 and seen["calls"] > 40, seen  # it did compare what it is about


def test_without_tools_a_call_is_text(make_template: Callable[[str], Any]) -> None:
    text = '<tool_call>\n{"name": "add", "arguments": {}}\n</tool_call>'
    assert read(ChatParser(make_template("qwen"), (), False), text, [3]) == ("", text, [])


def test_what_looks_like_a_call_and_is_none_is_text(make_template: Callable[[str], Any]) -> None:
    for text in ("<tool_call> is the mark.", "a <tool", '<tool_call>\n{"name": 3}\n</tool_call>', "trailing \n "):
        assert read(ChatParser(make_template("qwen"), TOOLS, False), text, [2]) == ("", text, [])


def test_text_before_a_call_is_not_kept_waiting(make_template: Callable[[str], Any]) -> None:
    parser = ChatParser(make_template("qwen"), TOOLS, False)
    assert parser.push("I will look. ").content == "I will look."
    assert parser.push("Now").content == " Now"
    assert parser.push('\n<tool_call>\n{"name": "add", "arguments": {"a": 1}').calls == ()
    (call,) = parser.push("}\n</tool_call>").calls  # as soon as it is whole, not at the end
    assert (call.name, json.loads(call.arguments)) == ("add", {"a": 1})
    assert parser.finish().content == ""


def test_a_thought_that_was_cut_off(make_template: Callable[[str], Any]) -> None:
    assert read(ChatParser(make_template("qwen3"), (), False), "<think>\nI wonder\n", [4]) == ("I wonder", "", [])
    assert read(ChatParser(make_template("qwen3"), (), True), "I wonder</thi", [4]) == ("I wonder</thi", "", [])


def test_an_empty_thought_is_none(make_template: Callable[[str], Any]) -> None:
    assert read(ChatParser(make_template("qwen3"), (), False), "<think>\n\n</think>\n\nHi", [3]) == ("", "Hi", [])


def test_forced_calls() -> None:
    assert read(NamedCallParser("f"), '{"a": 1}', [2]) == ("", "", [("f", {"a": 1})])
    assert read(AnyCallParser(), '{"name": "f", "arguments": {"a": 1}}', [5]) == ("", "", [("f", {"a": 1})])
    assert read(AnyCallParser(), '{"name": "f", "arg', [5]) == ("", '{"name": "f", "arg', [])
