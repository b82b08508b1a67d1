# SPDX-License-Identifier: Apache-2.0
"""Where a trained answer begins stands a border of tokens: before it are the ids of the prompt as it is served."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamafactory.data.template.jinja_template import JinjaTemplate
from llamafactory.data.template_loader import get_template
from llamafactory.hparams.data_args import DataArguments
from llamafactory.plugins import TEMPLATES, resolve

from .binding import bind, ids_and_weights, sample
from .cases import A2, CALL, RESULT, THOUGHT, U2, WEATHER, A, U
from .comparison import load_official
from .trained_tokenizers import build_tokenizer

ANSWERS = ["Rain.", "\nRain.", "\n\nRain.", " Rain.", "  Rain", "1", "", "<|im_end|> is a mark", "\n<|im_end|>"]
THINKING = [name for name in TEMPLATES if resolve("templates", name).thought is not None]


def _served(template: Any, tools: Any, messages: list[dict[str, Any]], **flags: Any) -> list[int]:
    """The prompt as a server makes it: the exported Jinja, read by the tokenizer."""
    return template.tokenizer.apply_chat_template(
        messages, tools=tools or None, chat_template=template.jinja(), add_generation_prompt=True,
        return_dict=True, **flags,
    )["input_ids"]  # fmt: skip


def _before(template: Any, chat: list[dict[str, Any]], tools: Any = (), **flags: Any) -> list[int]:
    """The ids before the last answer."""
    (segments,) = template.encode_batch([sample(chat, tools)], **flags)
    last = max(number for number, segment in enumerate(segments) if segment.weight and segment.message == len(chat) - 1)
    first = last
    while first and segments[first - 1].weight and segments[first - 1].message == len(chat) - 1:
        first -= 1
    return [token for segment in segments[:first] for token in segment.ids]


@pytest.mark.parametrize("flag", ["default", True, False])
@pytest.mark.parametrize("name", THINKING)
def test_before_an_answer_stand_the_ids_of_its_prompt(name: str, flag: Any) -> None:
    """With and without a thought, in every thinking family: also where `<think>` and a line break end the prompt."""
    tokenizer = build_tokenizer(name)
    template = get_template(tokenizer, DataArguments(template=name, enable_thinking=flag, preserve_thinking=True))
    for history in ([U], [U, THOUGHT, U2], [U, {**CALL, "reasoning_content": "Ask."}, RESULT]):
        for answer in (A, THOUGHT, {**A2, "content": "\nSunny."}):
            asked = sample(history, [WEATHER])
            prompts = [template.encode_prompt(asked.messages, asked.tools)]
            if flag == "default" and answer is THOUGHT:
                prompts.append(template.encode_prompt(asked.messages, asked.tools, enable_thinking=True))
            assert _before(template, [*history, answer], [WEATHER], mask_history=True) in prompts, (history, answer)


@pytest.mark.parametrize("name", ["qwen3_5", "qwen3_thinking", "deepseekr1", "minimax2", "youtu", "mimo"])
def test_the_served_ids_are_those_of_the_exported_text(name: str) -> None:
    template = bind(build_tokenizer(name), name)
    for answer in (A, THOUGHT):
        assert _before(template, [U, answer]) == _served(template, (), [U])


@pytest.mark.parametrize("kind", ["bytes", "metaspace"])
@pytest.mark.parametrize("name", ["chatml", "qwen3", "llama2", "llama3", "default", "vicuna", "alpaca", "empty"])
def test_no_token_reaches_from_the_prompt_into_an_answer(name: str, kind: str) -> None:
    """Whatever the answer begins with, by the short and the general way, and with a tokenizer that has no offsets."""
    template = bind(build_tokenizer(name, kind), name)
    slow = bind(build_tokenizer(name, kind), name)
    slow.tokenizer.__class__ = type("Slow", (type(slow.tokenizer),), {"is_fast": False})
    prompt = template.encode_prompt(sample([U]).messages)
    for text in ANSWERS:
        chat = [U, {**A, "content": text}]
        for flags in ({}, {"train_on_prompt": True}):
            ids, _ = ids_and_weights(template, sample(chat), **flags)
            assert ids[: len(prompt)] == prompt, text
            assert template.tokenizer.decode(ids) == template.tokenizer.decode(
                prompt + ids[len(prompt) :]
            ) and text.strip() in template.tokenizer.decode(ids[len(prompt) :]), text
            assert ids_and_weights(slow, sample(chat), **flags)[0] == ids, text


def test_a_mask_takes_the_border_away_with_the_training() -> None:
    """An answer that is only history is served as one text, so it is tokenized so."""
    template = bind(build_tokenizer("qwen3_nothink"), "qwen3_nothink")
    chat = [U, {**A, "content": "\nRain.", "weight": 0.0}, U2, A2]
    assert _before(template, chat) == _served(template, (), chat[:-1])


def test_a_jinja_has_the_same_borders() -> None:
    tokenizer = build_tokenizer("qwen3_5")
    source = load_official("trl:qwen3_5_think")
    template = JinjaTemplate(tokenizer, "tokenizer", source)
    for answer in (A, THOUGHT):
        assert _before(template, [U, answer]) == _served(template, (), [U])


@settings(max_examples=150, deadline=None)
@given(st.lists(st.text("thequickbrown 1.\n", min_size=1, max_size=9), min_size=1, max_size=5))
def test_turns_with_nothing_between_them(texts: list[str]) -> None:
    """Each trained answer is tokenized by itself, together with the question behind it."""
    template = bind(build_tokenizer("empty"), "empty")
    chat = [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(["Q", *texts])]
    pieces = template.pieces(sample(chat).messages, (), template.options)
    parts: list[str] = [""]
    begun = set()
    for piece in pieces:
        if piece.trained and piece.message not in begun:
            begun.add(piece.message)
            parts.append("")
        parts[-1] += piece.text
    wanted = [token for part in parts for token in template.tokenizer.encode(part, add_special_tokens=False)]
    assert ids_and_weights(template, sample(chat))[0] == wanted
