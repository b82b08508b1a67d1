# SPDX-License-Identifier: Apache-2.0
"""What is trained: the assistant's words and the token that ends them, nothing else."""

from __future__ import annotations

from itertools import groupby
from typing import Any

import pytest

from llamafactory.data.template_pieces import _warn_of_dropped_thoughts

from .binding import bind, ids_and_weights, sample
from .cases import A2, CALL, CALLS, INLINE, RESULT, RESULT2, THOUGHT, U2, WEATHER, A, S, U
from .comparison import load_official
from .trained_tokenizers import build_tokenizer

PLAIN = [[U, A], [S, U, A], [U, A, U2, A2]]
TOOLS = [[U, CALL, RESULT, A], [S, U, CALLS, RESULT, RESULT2, A, U2, A2]]


def _trained(template: Any, messages: Any, tools: Any = (), **flags: Any) -> list[str]:
    """The trained stretches as text."""
    ids, weights = ids_and_weights(template, sample(messages, tools), **flags)
    pairs = zip(ids, weights, strict=True)
    return [
        template.tokenizer.decode([token for token, _ in group])
        for weight, group in groupby(pairs, key=lambda pair: pair[1])
        if weight
    ]


def _official_mask(tokenizer: Any, source: str, messages: Any, tools: Any) -> tuple[list[int], list[int]]:
    out = tokenizer.apply_chat_template(
        messages, tools=tools, chat_template=source, return_dict=True, return_assistant_tokens_mask=True
    )
    return out["input_ids"], out["assistant_masks"]


def _without_line_breaks(tokenizer: Any, ids: list[int], mask: list[int]) -> list[float]:
    """TRL's marks hold the line breaks around a ChatML turn, which the template writes, not the model."""
    newline = tokenizer.convert_tokens_to_ids("Ċ")
    out = [float(value) for value in mask]
    for position, (token, value) in enumerate(zip(ids, mask, strict=True)):
        first = position == 0 or not mask[position - 1]
        last = position + 1 == len(mask) or not mask[position + 1]
        if value and token == newline and (first or last):
            out[position] = 0.0
    return out


@pytest.mark.parametrize(
    ("name", "trl", "chats"),
    [
        ("llama3", "llama3_training", PLAIN),
        ("qwen", "qwen2_5_training", PLAIN + TOOLS),
        ("qwen3_nothink", "qwen3_instruct_2507_training", PLAIN + TOOLS),
        ("qwen3", "qwen3_training", [[U, THOUGHT], [U, INLINE], [S, U, A]]),  # later thoughts: it keeps all of them
        ("gemma", "gemma_training", [PLAIN[0], PLAIN[2]]),
        ("gemma3", "gemma3_training", PLAIN),
    ],
)
def test_masks_equal_those_of_trl(name: str, trl: str, chats: list[list[dict[str, Any]]]) -> None:
    tokenizer = build_tokenizer(name)
    template = bind(tokenizer, name)
    for messages in chats:
        tools = [WEATHER] if messages in TOOLS else None
        ids, mask = _official_mask(tokenizer, load_official(f"trl:{trl}"), messages, tools)
        assert sum(mask) > 4
        ours, weights = ids_and_weights(template, sample(messages, tools or ()))
        assert ours == ids
        assert weights == _without_line_breaks(tokenizer, ids, mask)


def test_deepseek_r1_mask_is_that_of_trl_without_the_prompt() -> None:
    tokenizer = build_tokenizer("deepseekr1")
    template = bind(tokenizer, "deepseekr1")
    ids, mask = _official_mask(tokenizer, load_official("trl:deepseek_r1_distill_training"), [U, INLINE], None)
    ours, weights = ids_and_weights(template, sample([U, INLINE]))
    assert ours == ids
    theirs_only = [token for token, a, b in zip(ids, mask, weights, strict=True) if a and not b]
    assert tokenizer.decode(theirs_only) == "<｜Assistant｜><think>\n"
    assert all(a for a, b in zip(mask, weights, strict=True) if b)


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
