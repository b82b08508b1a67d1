# SPDX-License-Identifier: Apache-2.0
"""A structured response is read once more when it is whole, whatever constrained it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from llamafactory.chat.base_engine import Delta, EngineBase
from llamafactory.chat.hf_engine import HuggingfaceEngine
from llamafactory.extras.errors import ConfigError, ModelFault
from llamafactory.hparams import get_infer_args

# What vLLM's first choice of a constraint lets through: it forgets what stands beside anyOf.
BESIDE = {
    "properties": {"a": {"type": "integer"}},
    "required": ["a"],
    "anyOf": [{"required": ["b"]}, {"required": ["c"]}],
}


class Scripted(EngineBase):
    """An engine that says what it was given, in two pieces each."""

    def __init__(self, *answers: tuple[str, Any]) -> None:
        self.answers = answers

    async def _stream(self, prompt: Any, tools: Any, **overrides: Any) -> AsyncGenerator[Delta, None]:
        for index, (text, finish) in enumerate(self.answers):
            yield Delta(text[:4], index, 1)
            yield Delta(text[4:], index, 1, 3, finish)


def answers(schema: Any, *scripted: tuple[str, Any]) -> list[str]:
    overrides = {} if schema is None else {"json_schema": schema}
    return [response.text for response in asyncio.run(Scripted(*scripted).chat([], **overrides))]


@pytest.mark.parametrize("text", ['{"a": 1, "b": 2}', ' {"c": null,\n"a": -3}', '{"a": 1.0, "b": []}'])
def test_what_obeys_comes_through(text: str) -> None:
    assert answers(BESIDE, (text, "stop")) == [text]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("5 ", None),  # no object: the keywords above say nothing of it
        ('{"b": 2}', '"a" is a required property'),
        ('{"a": "1", "b": 2}', "at a: "),
        ('{"a": 1}', "anyOf"),
        ('{"a": 1, "b": 2', "no whole JSON"),
        ('{"a": 1, "b": NaN}', "NaN is no JSON"),
        ("", "no whole JSON"),
    ],
)
def test_what_does_not_obey_is_an_error(text: str, said: str | None) -> None:
    if said is None:
        assert answers(BESIDE, (text, "stop")) == [text]
        return
    with pytest.raises(ModelFault, match=said) as raised:
        answers(BESIDE, ('{"a": 1, "b": 2}', "stop"), (text, "stop"))
    assert str(raised.value).startswith("json_schema: ")


def test_a_cut_answer_says_length_and_free_text_is_free() -> None:
    assert answers(BESIDE, ('{"a": 1, "b', "length")) == ['{"a": 1, "b']
    assert answers(None, ("no JSON at all", "stop")) == ["no JSON at all"]


def test_any_object_is_an_object() -> None:
    assert answers({}, ('{"x": []}', "stop")) == ['{"x": []}']
    with pytest.raises(ModelFault):
        answers({}, ("[1, 2]", "stop"))


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "objct"}, {"$ref": "http://127.0.0.1:9/schema"}, {"$ref": "file:///etc/passwd"},
        pytest.param({"enum": ["a" * 100_000]}, id="large"),
    ],
)  # fmt: skip
def test_a_schema_that_is_none_or_points_elsewhere_is_refused(schema: Any) -> None:
    with pytest.raises(ConfigError, match="json_schema: ") as raised:
        answers(schema, ("{}", "stop"))
    assert not isinstance(raised.value, ModelFault)


def test_a_stop_word_inside_the_json_is_no_silence(tiny_llama: Path) -> None:
    """The huggingface engine itself: the constraint holds, and the request's own stop word ends it early."""
    keys = {"template": "chatml", "infer_dtype": "float32", "do_sample": False, "max_new_tokens": 40}
    engine = HuggingfaceEngine(get_infer_args({"model_name_or_path": str(tiny_llama), **keys}))
    schema = {"type": "object", "properties": {"a": {"const": "sun"}}, "required": ["a"], "additionalProperties": False}

    async def ask(**overrides: Any) -> str:
        return "".join([delta.text async for delta in engine.stream([5, 6, 7], json_schema=schema, **overrides)])

    try:
        assert "sun" in asyncio.run(ask())
        with pytest.raises(ModelFault, match="no whole JSON"):
            asyncio.run(ask(stop="su"))
    finally:
        engine.close()
