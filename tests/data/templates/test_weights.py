# SPDX-License-Identifier: Apache-2.0
"""What is trained: the assistant's words and the token that ends them, nothing else."""

from __future__ import annotations

from itertools import groupby
from typing import Any

import pytest

from llamafactory.data.template.renderer import _warn_of_dropped_thoughts

from .binding import bind, ids_and_weights, sample
from .cases import A2, CALL, INLINE, RESULT, THOUGHT, U2, WEATHER, A, S, U
from .trained_tokenizers import build_tokenizer


def _trained(template: Any, messages: Any, tools: Any = (), **flags: Any) -> list[str]:
    """The trained stretches as text."""
    ids, weights = ids_and_weights(template, sample(messages, tools), **flags)
    pairs = zip(ids, weights, strict=True)
    return [
        template.tokenizer.decode([token for token, _ in group])
        for weight, group in groupby(pairs, key=lambda pair: pair[1])
        if weight
    ]


@pytest.mark.parametrize("kind", ["bytes", "metaspace"])
def test_trained_text_in_words(kind: str) -> None:
    template = bind(build_tokenizer("qwen", kind), "qwen")
    assert _trained(template, [S, U, A, U2, A2]) == [A["content"] + "<|im_end|>", A2["content"] + "<|im_end|>"]
    assert _trained(template, [U, A, U2, A2], mask_history=True) == [A2["content"] + "<|im_end|>"]
    call = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Köln", "days": 2}}\n</tool_call><|im_end|>'
    assert _trained(template, [U, CALL, RESULT, A], [WEATHER]) == [call, A["content"] + "<|im_end|>"]


def test_train_on_prompt_and_message_weights() -> None:
    template = bind(build_tokenizer("qwen"), "qwen")
    ids, weights = ids_and_weights(template, sample([S, U, A]), train_on_prompt=True)
    assert weights == [1.0] * len(ids)
    chat = [S, {**U, "weight": 0.25}, {**A, "weight": 0}, U2, {**A2, "weight": 2}]
    (segments,) = template.encode_batch([sample(chat)])
    found = {segment.message: segment.weight for segment in segments if segment.weight}
    assert found == {1: 0.25, 4: 2.0}
    (masked,) = template.encode_batch([sample([U, {**A, "weight": 0.5}, U2, A2])], mask_history=True)
    assert {segment.message: segment.weight for segment in masked if segment.weight} == {1: 0.5, 3: 1.0}


def test_an_empty_thought_is_trained_only_when_thinking_is_on() -> None:
    tokenizer = build_tokenizer("qwen3")
    pair = "<think>\n\n</think>\n\n"
    answer = A["content"] + "<|im_end|>"
    assert _trained(bind(tokenizer, "qwen3", enable_thinking=True), [U, A]) == [pair + answer]
    for thinking in (False, None):
        template = bind(tokenizer, "qwen3", enable_thinking=thinking)
        assert _trained(template, [U, A]) == [answer]
        assert pair + answer in template.render(sample([U, A]).messages)
    off = bind(tokenizer, "qwen3", enable_thinking=False)
    assert _trained(off, [U, THOUGHT]) == [THOUGHT["content"] + "<|im_end|>"]


def test_a_thought_that_the_template_cannot_write_is_said(caplog: pytest.LogCaptureFixture) -> None:
    _warn_of_dropped_thoughts.cache_clear()
    template = bind(build_tokenizer("phi4"), "phi4")
    assert _trained(template, [U, THOUGHT, U2, THOUGHT]) == ["Rain.<|im_end|>"] * 2
    assert caplog.text.count("phi4 writes no thoughts") == 1


def test_thoughts_of_earlier_turns() -> None:
    tokenizer = build_tokenizer("qwen3")
    chat = [U, THOUGHT, U2, INLINE]
    thought = "<think>\nIt is\n\noften wet.\n</think>\n\n"
    last = "<think>\nSun or rain?\n</think>\n\nSunny.<|im_end|>"
    assert _trained(bind(tokenizer, "qwen3"), chat) == ["Rain.<|im_end|>", last]
    assert _trained(bind(tokenizer, "qwen3", preserve_thinking=True), chat) == [thought + "Rain.<|im_end|>", last]


def test_a_token_across_the_border_is_trained() -> None:
    """Llama 2 has no token between prompt and answer: the space before the first word belongs to the word."""
    template = bind(build_tokenizer("llama2", "metaspace"), "llama2")
    (text,) = _trained(template, [U, A])
    assert text.strip() == A["content"] + " </s>"
    default = bind(build_tokenizer("default"), "default")
    ids, weights = ids_and_weights(default, sample([U, A]))
    first = next(position for position, weight in enumerate(weights) if weight)
    assert default.tokenizer.decode(ids[:first]).endswith("Assistant:")
