# SPDX-License-Identifier: Apache-2.0
"""Answers that must be JSON come to an end under greedy decoding, whatever the model would rather write."""

from __future__ import annotations

import asyncio
import json
import random
import re
from pathlib import Path
from typing import Any

import pytest

from llamafactory.chat.base_engine import Delta
from llamafactory.chat.hf_engine import HuggingfaceEngine
from llamafactory.chat.json_constraint import JsonGrammars
from llamafactory.data.messages import Message, Part
from llamafactory.hparams import get_infer_args
from llamafactory.model import load_tokenizer

pytest.importorskip("llguidance")
SMALL: dict[str, Any] = {
    "type": "object",
    "properties": {
        "kind": {"enum": ["sun", "rain"]},
        "place": {"type": "string", "maxLength": 12},
        "days": {"type": "array", "items": {"type": "integer", "minimum": 1, "maximum": 31}, "maxItems": 3},
        "sure": {"type": "boolean"},
    },
    "required": ["kind", "place", "days", "sure"],
    "additionalProperties": False,
}


def ask(folder: Path, asked: list[tuple[Any, dict[str, Any]]], tokens: int) -> list[tuple[str, str | None]]:
    """Text and finish reason of greedy answers to prompts, each with its schema."""
    keys = {"template": "chatml", "infer_dtype": "float32", "do_sample": False, "max_new_tokens": tokens}
    engine = HuggingfaceEngine(get_infer_args({"model_name_or_path": str(folder), **keys}))

    async def one(prompt: Any, schema: dict[str, Any]) -> list[Delta]:
        return [delta async for delta in engine.stream(prompt, json_schema=schema)]

    async def crowd() -> list[list[Delta]]:
        return list(await asyncio.gather(*(one(*pair) for pair in asked)))

    answers = asyncio.run(crowd())
    engine.close()
    return [("".join(delta.text for delta in deltas), deltas[-1].finish_reason) for deltas in answers]


def said(text: str) -> list[Message]:
    return [Message("user", (Part("text", text),))]


def test_a_random_model_ends(tiny_llama: Path) -> None:
    draw = random.Random(3)
    prompts = [[draw.randrange(5, 400) for _ in range(12)] for _ in range(6)]
    for answer, finish in ask(tiny_llama, [(prompt, SMALL) for prompt in prompts], tokens=400):
        assert finish == "stop"
        assert list(json.loads(answer)) == SMALL["required"]


@pytest.mark.slow
def test_a_small_model_ends(smollm2: Path) -> None:
    asked = [(said("hello"), SMALL), (said("Will it rain in Paris tomorrow?"), SMALL), (said("hello"), {})]
    *small, (answer, finish) = ask(smollm2, asked, tokens=80)
    for text, end in small:
        assert end == "stop"
        assert list(json.loads(text)) == SMALL["required"]
    # Any object: to "hello" it writes line ends up to the limit where these are free.
    assert finish == "stop" and isinstance(json.loads(answer), dict)


def accepted(tiny_llama: Path, schema: dict[str, Any], text: str) -> bool:
    tokenizer = load_tokenizer(get_infer_args({"model_name_or_path": str(tiny_llama), "template": "chatml"}).model)
    grammars = JsonGrammars(tokenizer, [tokenizer.eos_token_id])
    constraint = grammars.constrain(grammars.check(schema))
    for token in tokenizer.encode(text, add_special_tokens=False):
        if not constraint.allowed(len(tokenizer))[token]:
            return False
        constraint.take(token)
    return constraint.finished


PAIR = {"a": [1, 2], "b": {"c": True}}


@pytest.mark.parametrize("layout", [{}, {"indent": 2}, {"indent": 4}, {"separators": (",", ":")}])
def test_usual_layouts_may_be_written(tiny_llama: Path, layout: dict[str, Any]) -> None:
    assert accepted(tiny_llama, {}, json.dumps(PAIR, **layout))


def test_white_space_is_bounded_unless_the_schema_says_how(tiny_llama: Path) -> None:
    object_ = {"type": "object"}
    long = re.sub(" ", " " * 40, '{"a": 1}')
    assert not accepted(tiny_llama, object_, long)
    assert accepted(tiny_llama, {**object_, "x-guidance": {"whitespace_flexible": True}}, long)
    strict = {**object_, "x-guidance": {"whitespace_flexible": False}}
    assert accepted(tiny_llama, strict, '{"a":1}') and not accepted(tiny_llama, strict, '{"a": 1}')
