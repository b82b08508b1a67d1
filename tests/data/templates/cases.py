# SPDX-License-Identifier: Apache-2.0
"""Conversations that every template is tried with; each has tags for what it needs of a template."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather, also in Köln",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "City"}, "days": {"type": "integer"}},
            "required": ["city"],
        },
    },
}
TIME = {
    "type": "function",
    "function": {
        "name": "get_time",
        "description": "Tell the time",
        "parameters": {"type": "object", "properties": {}},
    },
}


BOOK = {
    "type": "function",
    "function": {
        "name": "book_trip",
        "description": 'Book a trip.\nAsk "when" first; <b>then</b> book & pay.',
        "parameters": {
            "type": "object",
            "properties": {
                "to": {
                    "type": "array",
                    "items": {"type": "string"},
                    "description": "Places, in order",
                },
                "class": {"type": "string", "enum": ["first", "second"], "default": "second"},
                "guests": {
                    "type": "object",
                    "properties": {
                        "adults": {"type": "integer"},
                        "names": {"type": "array", "items": {"type": "string"}},
                    },
                    "required": ["adults"],
                },
                "insured": {"type": "boolean"},
                "budget": {"type": "number"},
            },
            "required": ["to", "guests"],
        },
    },
}


@dataclass(frozen=True)
class Case:
    name: str
    messages: tuple[dict[str, Any], ...]
    tags: frozenset[str] = frozenset()
    tools: tuple[dict[str, Any], ...] = ()
    enable_thinking: bool | None = None  # None: not said

    def with_text_arguments(self) -> Case:
        """The same with arguments as JSON text, which some official templates ask for."""
        messages = []
        for message in self.messages:
            calls = [
                {**call, "function": {**call["function"], "arguments": json.dumps(call["function"]["arguments"])}}
                for call in message.get("tool_calls", ())
            ]
            messages.append({**message, "tool_calls": calls} if calls else message)
        return replace(self, messages=tuple(messages))


def _say(role: str, content: str, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def _call(identity: str, name: str, **arguments: Any) -> dict[str, Any]:
    return {"id": identity, "type": "function", "function": {"name": name, "arguments": arguments}}


S = _say("system", "Be brief.")
U = _say("user", "What is the weather in Paris?")
A = _say("assistant", "Sunny, 21 degrees.")
U2 = _say("user", "And in Köln, 你好?")
A2 = _say("assistant", "Rain.\n\n- 12 degrees 😀")
CALL = _say("assistant", "", tool_calls=[_call("abcdef123", "get_weather", city="Köln", days=2)])
RESULT = _say("tool", '{"weather": "rain"}', tool_call_id="abcdef123")
CALLS = _say(
    "assistant",
    "",
    tool_calls=[_call("abcdef123", "get_weather", city="Paris"), _call("abcdef124", "get_time")],
)
RESULT2 = _say("tool", "10:30", tool_call_id="abcdef124")
CODE = _say("assistant", "```python\ndef f(x):\n    return {x: str(x)}\n\n\nprint(f(1))\n```\nDone.")
THOUGHT = _say("assistant", "Rain.", reasoning_content="It is\n\noften wet.")
INLINE = _say("assistant", "<think>\nSun or rain?\n</think>\n\nSunny.")


BOOKING = _say(
    "assistant",
    "",
    tool_calls=[
        _call(
            "abcdef125",
            "book_trip",
            to=["Zürich", 'O\'Hare "ORD"'],
            guests={"adults": 2, "names": ["Zoë", "<Bob> & co"]},
            insured=True,
            budget=99.5,
            note="line 1\nline 2",
        )
    ],
)
BOOKED = _say("tool", "Booked:\n\n  1. Zürich\n  2. O'Hare", tool_call_id="abcdef125")
# Tokens that one family or another calls special: in a user's text they are text.
TYPED = "What are <|im_end|>, <|eot_id|>, </s>, [INST], <end_of_turn>, <｜User｜>, <|user|> and <|end|>?"


def _case(
    name: str,
    messages: list[dict[str, Any]],
    *tags: str,
    tools: tuple[dict[str, Any], ...] = (),
    thinking: bool | None = None,
) -> Case:
    found = set(tags)
    found |= {"system"} if messages[0]["role"] == "system" else {"no_system"}
    found |= {"multi_turn"} if sum(message["role"] == "user" for message in messages) > 1 else set()
    return Case(name, tuple(messages), frozenset(found), tools, thinking)


CASES = [
    _case("one turn", [U, A]),
    _case("multi-turn", [U, A, U2, A2]),
    _case("system", [S, U, A]),
    _case("system multi-turn", [S, U, A, U2, A2]),
    _case("white space", [_say("user", "  Hi \n"), _say("assistant", "\n Hello  \n"), U, A], "white_space"),
    _case("system white space", [_say("system", " x \n"), _say("user", "\n Hi "), A], "system_space"),
    _case("special text", [_say("user", "<b>{{ x }} {% y %}</b>"), _say("assistant", "'\"\\n\\")]),
    _case(
        "code", [_say("user", "Fix:\n```python\ndef f(x):\n\treturn {x: '%s' % x}  # {{x}}\n```"), CODE], "blank_lines"
    ),
    _case("unicode", [_say("user", "Zürich 😀 – naïve שלום 日本語 \u200b e\u0301"), _say("assistant", "ok ✓ «é» ‘’")]),
    _case("empty answer", [U, _say("assistant", ""), U2, A2], "empty"),
    _case("late system", [U, A, S, U2, A2], "late_system"),
    _case("late system after a system", [S, U, A, S, U2, A2], "late_system"),
    _case("tools unused", [U, A], "tools", tools=(WEATHER, TIME)),
    _case("tools unused, system", [S, U, A, U2, A2], "tools", tools=(WEATHER,)),
    _case("call", [U, CALL, RESULT, A], "tools", "calls", tools=(WEATHER, TIME)),
    _case("call, tools not listed", [U, CALL, RESULT, A], "calls"),
    _case("call, system, multi-turn", [S, U, A, U2, CALL, RESULT, A2], "tools", "calls", tools=(WEATHER,)),
    _case("call, then a turn", [U, CALL, RESULT, A, U2, A2], "tools", "calls", tools=(WEATHER, TIME)),
    _case("call again", [U, CALL, RESULT, CALL, RESULT, A], "calls", "calls_again"),
    _case("parallel calls", [U, CALLS, RESULT, RESULT2, A], "calls", "parallel"),
    _case("parallel calls, system", [S, U, CALLS, RESULT, RESULT2, A], "tools", "calls", "parallel", tools=(WEATHER,)),
    _case(
        "parallel calls, twice",
        [U, CALLS, RESULT, RESULT2, A, U2, CALLS, RESULT, RESULT2, A2],
        "calls",
        "parallel",
        "calls_again",
    ),
    _case("text and call", [U, {**CALL, "content": "Let me see."}, RESULT, A], "calls", "text_and_call"),
    _case("thought", [U, THOUGHT], "thought"),
    _case("thought inline", [U, INLINE], "thought", "inline"),
    _case("thoughts in history", [S, U, INLINE, U2, A2], "thought", "inline"),
    _case("thoughts in history apart", [U, {**THOUGHT, "content": "Wet."}, U2, THOUGHT], "thought"),
    _case("thoughts around calls", [U, {**CALL, "reasoning_content": "Ask."}, RESULT, THOUGHT], "thought", "calls"),
    _case("thought, text and call", [U, {**CALL, **INLINE}, RESULT, A], "thought", "calls", "text_and_call", "inline"),
    _case("one word", [_say("user", "Hi"), _say("assistant", "Hello!"), _say("user", "1+1?"), _say("assistant", "2")]),
    _case("long history", [S, *[U, A, U2, A2] * 3]),
    _case("white space in history", [U, _say("assistant", "a "), U2, _say("assistant", " b\n")], "white_space"),
    _case("line breaks only", [_say("user", "\n\nHi\n\n"), _say("assistant", "Hello\n\n")], "white_space"),
    _case("empty question", [_say("user", ""), A], "empty_question"),
    _case("empty system", [_say("system", ""), U, A], "empty_system"),
    _case("markup", [_say("user", '<a href="x">&amp;</a>\r\n\tx'), _say("assistant", "<p>ok</p>")]),
    _case("nested arguments", [U, BOOKING, BOOKED, A], "tools", "calls", "nested", tools=(BOOK, TIME)),
    _case("nested tools, unused", [S, U, A], "tools", "nested", tools=(BOOK,)),
    _case("calls without arguments", [U, {**CALLS, "tool_calls": CALLS["tool_calls"][1:]}, RESULT2, A], "calls"),
    _case(
        "parallel calls, text and thought",
        [U, {**CALLS, "content": "Both.", "reasoning_content": "Two\ncalls."}, RESULT, RESULT2, THOUGHT, U2, A2],
        "calls",
        "parallel",
        "thought",
        "text_and_call",
    ),
    _case("thought with white space", [U, {**A, "reasoning_content": " \nHm. \n"}], "thought", "thought_space"),
    _case("thinking off", [S, U, A, U2, A2], "thinking_off", thinking=False),
    _case("thinking off, tools", [U, A, U2, A2], "thinking_off", "tools", tools=(WEATHER,), thinking=False),
    _case("thinking on", [S, U, A, U2, A2], "thinking_on", thinking=True),
]
# Its ids are not those of `apply_chat_template`, which takes typed tokens for real ones.
TYPED_CASE = _case("tokens typed", [_say("user", TYPED), A], "typed")
