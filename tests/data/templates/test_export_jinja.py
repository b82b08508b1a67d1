# SPDX-License-Identifier: Apache-2.0
"""The Jinja that export writes renders exactly what training encoded, for every template and switch."""

from __future__ import annotations

from typing import Any

import pytest

from llamafactory.data.tool_formats.json_format import JsonToolFormat
from llamafactory.extras.errors import ConfigError
from llamafactory.plugins import TEMPLATES, TOOL_FORMATS, resolve

from .binding import bind, encode, official_ids
from .cases import CASES, U2, A, S, U
from .trained_tokenizers import build_tokenizer

SWITCHES = [
    {"enable_thinking": thinking, "preserve_thinking": preserve}
    for thinking in (True, False, None)
    for preserve in (False, True)
]


def _compare(tokenizer: Any, name: str, **flags: Any) -> int:
    template = bind(tokenizer, name, **flags)
    source = template.jinja()
    compared = 0
    for case in CASES:
        if "late_system" in case.tags and template.chat.merge_system is not None:
            continue  # test_late_system_is_refused
        for prompt in (False, True):
            messages = case.messages[:-1] if prompt else case.messages
            ours = encode(template, messages, case.tools, prompt)
            assert ours == official_ids(tokenizer, source, messages, case.tools, prompt), (case.name, prompt, flags)
            compared += 1
    return compared


@pytest.mark.parametrize("kind", ["bytes", "metaspace"])
@pytest.mark.parametrize("name", TEMPLATES)
def test_every_template(name: str, kind: str) -> None:
    assert _compare(build_tokenizer(name, kind), name) >= 40


@pytest.mark.parametrize("flags", SWITCHES, ids=str)
@pytest.mark.parametrize("name", [name for name in TEMPLATES if resolve("templates", name).thought is not None])
def test_thinking_switches_are_written_into_it(name: str, flags: dict[str, Any]) -> None:
    _compare(build_tokenizer(name), name, **flags)


def test_the_caller_can_switch_thinking_in_the_exported_jinja() -> None:
    tokenizer = build_tokenizer("qwen3")
    trained = bind(tokenizer, "qwen3", enable_thinking=False)
    other = bind(tokenizer, "qwen3", enable_thinking=True)
    for case in CASES:
        for prompt in (False, True):
            ours = encode(other, case.messages, case.tools, prompt)
            theirs = official_ids(tokenizer, trained.jinja(), case.messages, case.tools, prompt, enable_thinking=True)
            assert ours == theirs, case.name


@pytest.mark.parametrize("name", ["smollm2", "chatml", "default"])
def test_the_real_smollm2_tokenizer(smollm2_tokenizer: Any, name: str) -> None:
    assert _compare(smollm2_tokenizer, name) >= 40


@pytest.mark.parametrize("name", ["gemma3", "llama3", "qwen"])
def test_an_own_default_system_text_is_written_into_it(name: str) -> None:
    text = 'It\'s "mine": {{ x }} {% y %}\n\\n <end_of_turn>'
    tokenizer = build_tokenizer("chatml")  # none of these families' tokens, so that the text holds no special one
    template = bind(tokenizer, name, default_system=text)
    assert text in template.render([], add_generation_prompt=False) or name == "gemma3"
    assert encode(template, [U, A], (), False) == official_ids(tokenizer, template.jinja(), [U, A], (), False)


@pytest.mark.parametrize("tool_format", TOOL_FORMATS)
@pytest.mark.parametrize("name", ["chatml", "gemma", "llama3_1", "ministral"])
def test_another_tool_format(name: str, tool_format: str) -> None:
    from llamafactory.data.template.literal_template import LiteralTemplate

    tokenizer = build_tokenizer(name)
    dialect = resolve("tool_formats", tool_format)
    assert isinstance(dialect, JsonToolFormat)
    template = LiteralTemplate(tokenizer, resolve("templates", name), dialect)
    for case in CASES:
        if case.tags & {"tools", "calls"}:
            ours = encode(template, case.messages, case.tools, False)
            assert ours == official_ids(tokenizer, template.jinja(), case.messages, case.tools, False), case.name


def test_content_given_as_parts() -> None:
    tokenizer = build_tokenizer("qwen")
    template = bind(tokenizer, "qwen")
    parts = [{"role": "user", "content": [{"type": "text", "text": "Hello "}, {"type": "text", "text": "world"}]}, A]
    assert encode(template, parts, (), False) == official_ids(tokenizer, template.jinja(), parts, (), False)
    assert "Hello world" in tokenizer.decode(encode(template, parts, (), False))


@pytest.mark.parametrize("name", ["llama2", "gemma3", "mistral"])
def test_late_system_is_refused(name: str) -> None:
    import jinja2

    tokenizer = build_tokenizer(name)
    template = bind(tokenizer, name)
    with pytest.raises(ConfigError, match="can only come first"):
        encode(template, [U, A, S, U2, A], (), False)
    with pytest.raises(jinja2.TemplateError, match="can only come first"):
        official_ids(tokenizer, template.jinja(), [U, A, S, U2, A], (), False)
