# SPDX-License-Identifier: Apache-2.0
"""Any text in any turn: ids equal the exported Jinja's, special tokens in data stay text."""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from .binding import bind, encode, ids_and_weights, official_ids, sample
from .cases import CALL, RESULT, WEATHER, A, U
from .trained_tokenizers import build_tokenizer

SPECIAL = ["<|im_end|>", "<|im_start|>", "<|eot_id|>", "<end_of_turn>", "[INST]", "</s>", "<｜User｜>"]
EDGES = [
    " ",
    "\n",
    "\n\n",
    "\t",
    "<",
    "|",
    "<|im_",
    "end|>",
    "</think>",
    "<think>",
    "{{",
    "%}",
    "'",
    "\\n",
    "😀",
    "é",
    "你",
]
TEXT = st.lists(st.one_of(st.text(max_size=8), st.sampled_from(EDGES)), max_size=5).map("".join)
NAMES = ["qwen", "qwen3", "llama2", "llama3_1", "gemma3", "mistral", "phi4_mini", "deepseekr1", "smollm2", "vicuna"]


@cache
def _template(name: str, kind: str = "bytes") -> Any:
    return bind(build_tokenizer(name, kind), name)


def _clean(template: Any, *texts: str) -> bool:
    """No special token, and nothing that Python and Jinja (or the tokenizer) cannot both hold."""
    return not any(template._special.search(text) or "\r" in text for text in texts)


def _chat(texts: list[str], system: bool) -> list[dict[str, Any]]:
    roles = ["system"] if system else []
    roles += ["user", "assistant"] * 3
    return [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(NAMES), st.lists(TEXT, min_size=2, max_size=6), st.booleans(), st.booleans(), st.booleans())
def test_ids_equal_the_exported_jinja(name: str, texts: list[str], system: bool, prompt: bool, spaced: bool) -> None:
    template = _template(name, "metaspace" if spaced else "bytes")
    chat = _chat(texts, system)
    if _clean(template, *texts) and any(message["role"] == "user" for message in chat):
        ours = encode(template, chat, (), prompt)
        assert ours == official_ids(template.tokenizer, template.jinja(), chat, (), prompt)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(NAMES), TEXT, TEXT, TEXT, st.dictionaries(TEXT, TEXT, max_size=2))
def test_calls_and_thoughts(name: str, text: str, thought: str, answer: str, arguments: dict[str, str]) -> None:
    template = _template(name)
    call = {"id": "abcdef123", "type": "function", "function": {"name": "f", "arguments": arguments}}
    chat = [
        {"role": "user", "content": text},
        {"role": "assistant", "content": answer, "reasoning_content": thought, "tool_calls": [call]},
        {"role": "tool", "content": text},
        {"role": "assistant", "content": answer + "x", "reasoning_content": thought},
    ]
    if _clean(template, text, thought, answer, *arguments, *arguments.values()):
        ours = encode(template, chat, [WEATHER], False)
        assert ours == official_ids(template.tokenizer, template.jinja(), chat, [WEATHER], False)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(NAMES), st.lists(TEXT, min_size=2, max_size=6), st.booleans())
def test_segments_are_the_whole_text(name: str, texts: list[str], spaced: bool) -> None:
    template = _template(name, "metaspace" if spaced else "bytes")
    one = sample(_chat(texts, False))
    (segments,) = template.encode_batch([one])
    assert all(segment.ids for segment in segments)
    assert all(a[1:] != b[1:] for a, b in pairwise(segments))
    assert all(-1 <= segment.message < len(one.messages) for segment in segments)
    trained = {segment.message for segment in segments if segment.weight}
    assert all(one.messages[index].role == "assistant" for index in trained)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(NAMES), TEXT, st.sampled_from(SPECIAL), TEXT, st.booleans())
def test_special_tokens_in_data_stay_text(name: str, before: str, special: str, after: str, spaced: bool) -> None:
    """The oracle is transformers' own `sanitize_control_tokens`, limited to special tokens."""
    template = _template(name, "metaspace" if spaced else "bytes")
    tokenizer = template.tokenizer
    tokenizer.chat_control_tokens = []
    texts = [before + special + after, before + special + special + "."]
    chat = [{"role": "user", "content": texts[0]}, {"role": "assistant", "content": texts[1]}]
    if any("\r" in text or "\ue000" <= c <= "\uf8ff" for text in texts for c in text):
        return
    ours = encode(template, chat, (), False)
    assert ours == official_ids(tokenizer, template.jinja(), chat, (), False, sanitize_control_tokens=True)
    plain = encode(template, [{"role": "user", "content": "."}, {"role": "assistant", "content": "."}], (), False)
    known = set(tokenizer.all_special_ids)
    assert [token for token in ours if token in known] == [token for token in plain if token in known]


def test_special_tokens_in_calls_results_and_tools_stay_text() -> None:
    template = _template("qwen")
    end = template.tokenizer.convert_tokens_to_ids("<|im_end|>")
    call = {**CALL["tool_calls"][0], "function": {"name": "f", "arguments": {"x": "a<|im_end|>b"}}}
    chat = [U, {**CALL, "tool_calls": [call]}, {**RESULT, "content": "<|im_end|>"}, A]
    tool = {"type": "function", "function": {**WEATHER["function"], "description": "ends <|im_end|>"}}
    ids, weights = ids_and_weights(template, sample(chat, [tool]))
    assert ids.count(end) == 5  # system, user, call, result, answer
    trained = [token for token, weight in zip(ids, weights, strict=True) if weight]
    assert trained.count(end) == 2 and "a<|im_end|>b" in template.tokenizer.decode(trained)


@pytest.mark.parametrize("name", ["qwen", "llama2", "default"])
def test_a_tokenizer_without_offsets_gives_the_same(name: str) -> None:
    """The fallback for slow tokenizers, on a fast one that says it is slow."""
    fast = bind(build_tokenizer(name), name)
    slow = bind(build_tokenizer(name), name)
    type_ = type(slow.tokenizer)
    slow.tokenizer.__class__ = type("Slow", (type_,), {"is_fast": False})
    for chat in ([U, A], [U, A, U, A]):
        assert ids_and_weights(slow, sample(chat)) == ids_and_weights(fast, sample(chat))
