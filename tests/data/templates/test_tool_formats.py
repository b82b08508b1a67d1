# SPDX-License-Identifier: Apache-2.0
"""Calls are read back as they were written; answers are told apart into thought, text and calls."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from llamafactory.data.messages import ToolCall
from llamafactory.plugins import TEMPLATES, TOOL_FORMATS, resolve

from .binding import bind, sample
from .cases import CALLS, TIME, WEATHER, U
from .trained_tokenizers import build_tokenizer

KEY = st.text(st.characters(exclude_characters=":]}"), max_size=5)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEY, inner, max_size=3),
    max_leaves=6,
)
CALL = st.builds(
    ToolCall,
    st.from_regex(r"[a-z_][a-z_0-9]{0,10}", fullmatch=True),
    st.dictionaries(st.from_regex(r"[A-Za-z_äß你][\w-]{0,6}", fullmatch=True), JSON, max_size=3),
)


def _bare(calls: Any) -> list[tuple[str, Any]]:
    return [(call.name, call.arguments) for call in calls]


def _keys_are_words(value: Any) -> bool:
    """Gemma writes keys bare, inside values too: one with a brace or a colon cannot be told from what is around it."""
    if isinstance(value, list):
        return all(map(_keys_are_words, value))
    return not isinstance(value, dict) or all(
        re.fullmatch(r"[\w-]+", k) and _keys_are_words(v) for k, v in value.items()
    )


def _schema(calls: list[ToolCall]) -> list[dict[str, Any]]:
    """Tools that have these calls' arguments; only the first call of a name counts."""
    tools = {}
    for call in calls:
        types = {key: {"type": "string" if isinstance(value, str) else "any"} for key, value in call.arguments.items()}
        function = {"name": call.name, "description": "d", "parameters": {"type": "object", "properties": types}}
        tools.setdefault(call.name, {"type": "function", "function": function})
    return list(tools.values())


HARD = [
    ToolCall("f", {"quotes": "'a' \"b\" \\", "lines": "1\n\n2\r\n", "text": "Köln 你好 😀 </x> {y} [z]"}),
    ToolCall("g", {}),
    ToolCall("h", {"deep": {"a": [1, None, {"b": "c"}]}, "yes": True, "n": -1.5}),
]


@pytest.mark.parametrize("name", TOOL_FORMATS)
@settings(max_examples=30, deadline=None)
@given(
    calls=st.lists(CALL, min_size=1, max_size=3, unique_by=lambda call: call.name),
    text=st.sampled_from(["", "Let me see.", "a\n\nb {x"]),
)
@example(calls=HARD, text="")
@example(calls=HARD[1:], text="Both.")
def test_parse_gives_the_calls_back(name: str, calls: list[ToolCall], text: str) -> None:
    assume(name != "gemma4" or all(_keys_are_words(call.arguments) for call in calls))
    dialect = resolve("tool_formats", name)
    written = text + (dialect.content_join if text else "") + dialect.render(calls)
    tools = _schema(calls)
    content, found = dialect.split(written, tools)
    assert _bare(found) == _bare(calls)
    assert content == text
    assert _bare(dialect.parse(written, tools)) == _bare(calls)


@pytest.mark.parametrize("name", TOOL_FORMATS)
@pytest.mark.parametrize("text", ["", "Hello", '{"a": 1}', "[1, 2]", "<tool_call>\n{oops}\n</tool_call>", "Action: x"])
def test_what_is_no_call_stays_text(name: str, text: str) -> None:
    assert resolve("tool_formats", name).split(text) == (text, [])


def test_ids_are_kept_where_they_are_written() -> None:
    for name in ("mistral", "mistral_small"):
        calls = [ToolCall("f", {"x": 1}, "abcdef123"), ToolCall("g", {})]
        found = resolve("tool_formats", name).parse(resolve("tool_formats", name).render(calls))
        assert [call.id for call in found] == ["abcdef123", "000000001"]


def test_mistral_marks_may_be_missing_from_decoded_text() -> None:
    text = ' [{"name": "f", "arguments": {"x": 1}, "id": "abcdef123"}]'
    assert _bare(resolve("tool_formats", "mistral").parse(text)) == [("f", {"x": 1})]


def test_arguments_given_as_text_are_written_as_they_stand() -> None:
    call = ToolCall("f", '{"x":1}')
    assert '"arguments": {"x":1}}' in resolve("tool_formats", "qwen").render([call])


def test_describe_names_every_tool() -> None:
    for name in TOOL_FORMATS:
        text = resolve("tool_formats", name).describe([WEATHER, TIME["function"]])
        assert "get_weather" in text and "get_time" in text and "Köln" in text


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_reads_what_it_wrote(name: str) -> None:
    template = bind(build_tokenizer(name), name, preserve_thinking=True)
    written = {"role": "assistant", "content": "Let me see.", "tool_calls": CALLS["tool_calls"]}
    if template.chat.thought and template.chat.thought[1] not in template.chat.thought_prompt:
        written["reasoning_content"] = "Both?"
    messages = sample([U, written]).messages
    prompt = template.render(messages[:1], add_generation_prompt=True)
    full = template.render(messages)
    if not full.startswith(prompt):  # Gemma 4's prompt closes the thought, but a whole conversation shows none
        prompt = prompt.removesuffix(template.chat.thought_prompt)
    assert full.startswith(prompt)
    message = template.parse(full[len(prompt) :].removesuffix(template.chat.suffix).removesuffix(template.chat.gap))
    assert message.text == "Let me see."
    assert _bare(message.tool_calls) == _bare(messages[1].tool_calls)
    assert message.reasoning == messages[1].reasoning


def test_a_thought_cut_off_is_a_thought() -> None:
    message = bind(build_tokenizer("qwen3"), "qwen3").parse("<think>\nFirst, I")
    assert (message.reasoning, message.text) == ("First, I", "")


def test_marks_in_a_tool_s_own_text_stay_text() -> None:
    template = bind(build_tokenizer("gemma4"), "gemma4")
    function = {"name": "f", "description": 'say <|"|> and <tool|>', "parameters": {"type": "object", "properties": {}}}
    pieces = template.pieces(sample([U]).messages, [{"type": "function", "function": function}], template.options)
    held = [piece.text for piece in pieces if not piece.literal]
    assert 'say <|"|> and <tool|>' in held
    assert sum(piece.text == "<tool|>" for piece in pieces if piece.literal) == 1
