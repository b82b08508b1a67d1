# SPDX-License-Identifier: Apache-2.0
"""A mask changes what is trained, never the text: every dialect of calls, both layouts of turns, Jinja too."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import product
from typing import Any

import pytest

from llamafactory import plugins
from llamafactory.data.messages import Sample
from llamafactory.data.sources.dataset_info import parse_entry
from llamafactory.data.template.jinja_template import JinjaTemplate

from .binding import bind, ids_and_weights
from .cases import WEATHER
from .trained_tokenizers import build_tokenizer

TEXT, DONE = "I look it up.", "Rain there."
ARGUMENTS = {"city": "Oslo"}
MASKS = [{}, {"train": False}, {"train": 0.5}]


def _one_name_a_dialect() -> dict[str, str]:
    found: dict[str, str] = {}
    for name in plugins.names("templates"):
        found.setdefault(plugins.resolve("templates", name).tool_format, name)
    return found


DIALECTS = _one_name_a_dialect()


def _read(row: dict[str, Any], formatting: str) -> Sample:
    attr = parse_entry("set", {"file_name": "x", "formatting": formatting}, "dataset_info.json", ".")
    return replace(plugins.resolve("formats", formatting)(row, attr), tools=(WEATHER,))


def _sharegpt(text: dict[str, Any], call: dict[str, Any], last: dict[str, Any]) -> Sample:
    turns = [
        {"from": "human", "value": "Weather in Oslo?"},
        {"from": "gpt", "value": TEXT, **text},
        {"from": "function_call", "value": json.dumps({"name": "get_weather", "arguments": ARGUMENTS}), **call},
        {"from": "observation", "value": "rain"},
        {"from": "gpt", "value": DONE, **last},
    ]
    return _read({"conversations": turns}, "sharegpt")


def _openai(text: dict[str, Any], call: dict[str, Any], last: dict[str, Any]) -> Sample:
    del call
    calls = [{"type": "function", "function": {"name": "get_weather", "arguments": ARGUMENTS}}]
    turns = [
        {"role": "user", "content": "Weather in Oslo?"},
        {"role": "assistant", "content": TEXT, "tool_calls": calls, **text},
        {"role": "tool", "content": "rain"},
        {"role": "assistant", "content": DONE, **last},
    ]
    return _read({"messages": turns}, "openai")


@pytest.mark.parametrize("dialect", sorted(DIALECTS))
@pytest.mark.parametrize("read", [_sharegpt, _openai])
def test_the_text_is_the_same_with_any_mask(dialect: str, read: Any) -> None:
    template = bind(build_tokenizer(DIALECTS[dialect]), DIALECTS[dialect])
    decode = template.tokenizer.decode
    plain = decode(ids_and_weights(template, read({}, {}, {}))[0])
    for masks in product(MASKS, repeat=2):
        for flags in ({}, {"mask_history": True}):
            assert decode(ids_and_weights(template, read(*masks, masks[0]), **flags)[0]) == plain, masks


def _trained(template: Any, sample: Sample) -> str:
    ids, weights = ids_and_weights(template, sample)
    return template.tokenizer.decode([token for token, weight in zip(ids, weights, strict=True) if weight])


@pytest.mark.parametrize("kind", ["literals", "jinja"])
@pytest.mark.parametrize("name", ["qwen", "llama3_1", "qwen3_coder", "phi4_mini"])
def test_text_and_call_of_one_response_are_masked_apart(name: str, kind: str) -> None:
    template: Any = bind(build_tokenizer(name), name)
    if kind == "jinja":
        template = JinjaTemplate(template.tokenizer, "file", template.jinja())
    no, end = {"train": False}, template.ends[0] if kind == "literals" else ""
    text = _trained(template, _sharegpt({}, no, no))
    assert text.strip() == TEXT
    call = _trained(template, _sharegpt(no, {}, no))
    assert TEXT not in call and "Oslo" in call and call.endswith(end)
    both = _trained(template, _sharegpt({}, {}, no))  # line breaks between them may be one token, which is of both
    assert "".join(both.split()) == "".join((text + call).split()) and len(both) <= len(text + call)
    assert _trained(template, _sharegpt(no, no, no)) == ""
