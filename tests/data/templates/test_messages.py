# SPDX-License-Identifier: Apache-2.0
"""OpenAI messages in and out."""

from __future__ import annotations

from typing import Any

import pytest

from llamafactory.data.messages import Message, Part, ToolCall
from llamafactory.extras.errors import ConfigError

from .cases import CASES


def test_every_case_comes_back_as_it_went_in() -> None:
    for case in CASES:
        for message in case.messages:
            assert Message.from_openai(message).to_openai() == message


def test_the_less_common_forms() -> None:
    message = Message.from_openai(
        {
            "role": "assistant",
            "content": None,
            "reasoning": "hm",
            "weight": 0,
            "tool_calls": [{"name": "f", "arguments": '{"x": 1}'}, {"function": {"name": "g"}, "id": "1"}],
        }
    )
    assert (message.text, message.reasoning, message.weight) == ("", "hm", 0.0)
    assert message.tool_calls == (ToolCall("f", '{"x": 1}'), ToolCall("g", {}, "1"))
    assert Message.from_openai({"role": "developer", "content": "x"}).role == "system"
    parts = [
        {"type": "text", "text": "a"},
        {"type": "image_url", "image_url": {"url": "b.png"}},
        {"type": "audio", "path": "c"},
    ]
    read = Message.from_openai({"role": "tool", "content": parts, "tool_call_id": "1"})
    assert read.parts == (Part("text", "a"), Part("image", "b.png"), Part("audio", "c"))
    assert read.to_openai()["content"][1] == {"type": "image", "image": "b.png"}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"role": "bot", "content": "x"}, "role 'bot' is not one of system, user, assistant, tool"),
        ({"content": "x"}, "role None"),
        ({"role": "user", "content": 3}, "content must be text or a list of parts, got 3"),
        ({"role": "user", "content": [{"type": "smell", "smell": "x"}]}, "is not one of text, image, video, audio"),
        ({"role": "user", "content": [{"text": "x"}]}, "a content part needs a type"),
        (
            {"role": "assistant", "content": "", "tool_calls": [{"function": {}}]},
            "expected an object with a function name",
        ),
        ({"role": "assistant", "content": "", "tool_calls": [{"name": "f", "arguments": 3}]}, "arguments of 'f'"),
        ({"role": "assistant", "content": "x", "weight": "2"}, "weight must be a number >= 0, got '2'"),
        ({"role": "assistant", "content": "x", "weight": -1}, "weight must be a number >= 0, got -1"),
        ({"role": "assistant", "content": "x", "reasoning_content": 1}, "reasoning_content must be text"),
    ],
)
def test_bad_messages_are_one_line(value: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Message.from_openai(value)
    assert message in str(caught.value) and "\n" not in str(caught.value)
