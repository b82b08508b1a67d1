# SPDX-License-Identifier: Apache-2.0
"""The table of docs/migration.md: with the keys that stand in a cell, ours trains what the other tool trains.

The labels of the other tools are written down here as they were seen: the text of the row, trained stretches in ⟦ ⟧.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from llamafactory.data.messages import Message, Sample
from llamafactory.data.processor import SupervisedProcessor
from llamafactory.data.template_loader import get_template
from llamafactory.hparams.data_args import DataArguments

from .templates.trained_tokenizers import build_tokenizer

TOOLS = ("TRL", "ms-swift", "axolotl", "LLaMA-Factory", "unsloth")
ET = "<think>\n\n</think>\n\n"
END = "<|im_end|>"
HEAD = "<|im_start|>assistant\n"


def _user(text: str, role: str = "user") -> str:
    return f"<|im_start|>{role}\n{text}{END}\n"


def _ask(text: str) -> str:
    return _user(text) + HEAD


U1, U2 = {"role": "user", "content": "What is it?"}, {"role": "user", "content": "And this one?"}
A1, A2 = {"role": "assistant", "content": "A red ball."}, {"role": "assistant", "content": "A blue one."}
T1 = {**A1, "reasoning_content": "Look at it."}
T2 = {**A2, "reasoning_content": "Look again."}
Q1, Q2 = _ask("What is it?"), _ask("And this one?")
THOUGHT1 = "<think>\nLook at it.\n</think>\n\nA red ball."
THOUGHT2 = "<think>\nLook again.\n</think>\n\nA blue one."
TYPED = {"role": "user", "content": f"Say {END}\n<|im_start|>user\nyes"}
MASKED = {**A1, "weight": 0.0}
SYSTEM = {"role": "system", "content": "Be brief."}
LONG = "seven words " * 30

# row, messages, cutoff_len, tool -> text with its trained stretches; "" = no row is left.
ROWS: dict[str, tuple[list[dict[str, Any]], dict[str, str]]] = {
    "one answer, no thought": (
        [U1, A1],
        {
            "TRL": f"{Q1}⟦{ET}A red ball.{END}\n⟧",
            "ms-swift": f"{Q1}⟦{ET}A red ball.{END}\n⟧",
            "axolotl": f"{Q1}{ET}⟦A red ball.{END}⟧\n",
            "LLaMA-Factory": f"{Q1}⟦{ET}A red ball.{END}\n⟧",
            "unsloth": f"{Q1}⟦{ET}A red ball.{END}⟧\n",
        },
    ),
    "one answer with a thought": (
        [U1, T1],
        {
            "TRL": f"{Q1}⟦{THOUGHT1}{END}\n⟧",
            "ms-swift": f"{Q1}⟦{THOUGHT1}{END}\n⟧",
            "LLaMA-Factory": f"{Q1}⟦{THOUGHT1}{END}\n⟧",
            "unsloth": f"{Q1}⟦{THOUGHT1}{END}⟧\n",
        },
    ),
    "several turns, no thoughts": (
        [U1, A1, U2, A2],
        {
            "axolotl": f"{Q1}⟦A red ball.{END}⟧\n{Q2}{ET}⟦A blue one.{END}⟧\n",
            "unsloth": f"{Q1}⟦A red ball.{END}⟧\n{Q2}⟦{ET}A blue one.{END}⟧\n",
        },
    ),
    "several turns with thoughts": (
        [U1, T1, U2, T2],
        {
            "TRL": f"{Q1}⟦{THOUGHT1}{END}\n⟧{Q2}⟦{THOUGHT2}{END}\n⟧",
            "ms-swift": f"{Q1}⟦{THOUGHT1}{END}\n⟧{Q2}⟦{THOUGHT2}{END}\n⟧",
            "LLaMA-Factory": f"{Q1}⟦{THOUGHT1}{END}\n⟧{Q2}⟦{THOUGHT2}{END}\n⟧",
            "unsloth": f"{Q1}⟦A red ball.{END}⟧\n{Q2}⟦{THOUGHT2}{END}⟧\n",
        },
    ),
    "assistant first": (
        [A1, U2, A2],
        {
            "TRL": f"{HEAD}⟦A red ball.{END}\n⟧{Q2}⟦{ET}A blue one.{END}\n⟧",
            "axolotl": f"{HEAD}⟦A red ball.{END}⟧\n{Q2}{ET}⟦A blue one.{END}⟧\n",
            "unsloth": f"{HEAD}⟦A red ball.{END}⟧\n{Q2}⟦{ET}A blue one.{END}⟧\n",
        },
    ),
    "two users in a row": (
        [U1, U2, A2],
        {
            "TRL": f"{_user('What is it?')}{Q2}⟦{ET}A blue one.{END}\n⟧",
            "axolotl": f"{_user('What is it?')}{Q2}{ET}⟦A blue one.{END}⟧\n",
            "unsloth": f"{_user('What is it?')}{Q2}⟦{ET}A blue one.{END}⟧\n",
        },
    ),
    "empty answer": (
        [U1, {**A1, "content": ""}],
        {
            "TRL": f"{Q1}⟦{ET}{END}\n⟧",
            "ms-swift": f"{Q1}⟦{ET}{END}\n⟧",
            "LLaMA-Factory": f"{Q1}⟦{ET}{END}\n⟧",
            "unsloth": f"{Q1}⟦{ET}{END}⟧\n",
        },
    ),
    "a turn that is not trained": (
        [U1, MASKED, U2, A2],
        {
            "ms-swift": f"{Q1}A red ball.{END}\n{Q2}⟦{ET}A blue one.{END}\n⟧",
            "axolotl": f"{Q1}A red ball.{END}\n{Q2}{ET}⟦A blue one.{END}⟧\n",
        },
    ),
    "role marks that a text spells": (
        [TYPED, A1],
        {
            "TRL": f"{_ask(TYPED['content'])}⟦{ET}A red ball.{END}\n⟧",
            "ms-swift": f"{_ask(TYPED['content'])}⟦{ET}A red ball.{END}\n⟧",
            "axolotl": f"{_ask(TYPED['content'])}{ET}⟦A red ball.{END}⟧\n",
            "LLaMA-Factory": f"{_ask(TYPED['content'])}⟦{ET}A red ball.{END}\n⟧",
        },
    ),
    "system text in the middle": (
        [U1, SYSTEM, U2, A2],
        {
            "TRL": f"{_user('What is it?')}{_user('Be brief.', 'system')}{Q2}⟦{ET}A blue one.{END}\n⟧",
            "axolotl": f"{_user('What is it?')}{_user('Be brief.', 'system')}{Q2}{ET}⟦A blue one.{END}⟧\n",
            "unsloth": f"{_user('What is it?')}{_user('Be brief.', 'system')}{Q2}⟦{ET}A blue one.{END}⟧\n",
        },
    ),
    "ends with a user turn": (
        [U1, A1, U2],
        {
            "TRL": f"{Q1}⟦A red ball.{END}\n⟧{_user('And this one?')}",
            "axolotl": f"{Q1}⟦A red ball.{END}⟧\n{_user('And this one?')}",
            "unsloth": f"{Q1}⟦A red ball.{END}⟧\n{_user('And this one?')}",
        },
    ),
    "question beyond the limit": (
        [{"role": "user", "content": LONG}, A1],
        {"TRL": "", "axolotl": "", "unsloth": ""},
    ),
}


@cache
def _table() -> dict[str, dict[str, str]]:
    text = (Path(__file__).parents[2] / "docs" / "migration.md").read_text("utf-8")
    lines = [line.strip("| ").split(" | ") for line in text.split("\n\n## ")[0].splitlines() if line.startswith("| ")]
    assert tuple(lines[0][1:]) == TOOLS
    return {row[0]: dict(zip(TOOLS, row[1:], strict=True)) for row in lines[1:]}


def _keys(row: str, tool: str) -> dict[str, Any]:
    """The keys that a cell of the page names."""
    said, _, ours = _table()[row][tool].partition(" → ")
    assert ours and not ours.startswith("not copied"), (row, tool, said)
    found: dict[str, Any] = {}
    for key in re.findall(r"`(\w+: \w+)`", ours):
        found |= yaml.safe_load(key)
    return found


def _labels(tokenizer: Any, marked: str) -> tuple[list[int], list[int]]:
    """Ids of a text and their labels; a token across a border is trained, as in the assistant mask of transformers."""
    stretches = re.split("[⟦⟧]", marked)
    trained = [number % 2 == 1 for number, stretch in enumerate(stretches) for _ in stretch]
    found = tokenizer("".join(stretches), add_special_tokens=False, return_offsets_mapping=True)
    ids = found["input_ids"]
    spans = zip(ids, found["offset_mapping"], strict=True)
    return ids, [token if any(trained[start:end]) else -100 for token, (start, end) in spans]


def _ours(tokenizer: Any, messages: list[dict[str, Any]], **keys: Any) -> list[tuple[list[int], list[int]]]:
    data = DataArguments(**{"template": "qwen3", **keys})
    weights = [message.get("weight") for message in messages]
    read = [Message.from_openai({k: v for k, v in message.items() if k != "weight"}) for message in messages]
    turns = [
        Message(m.role, m.parts, m.tool_calls, m.reasoning, weight=weight)
        for m, weight in zip(read, weights, strict=True)
    ]
    encoded = SupervisedProcessor().encode([Sample(tuple(turns))], get_template(tokenizer, data), tokenizer, data)
    return list(zip(encoded.columns["input_ids"], encoded.columns["labels"], strict=True))


CASES = [(row, tool) for row, (_, tools) in ROWS.items() for tool in tools]


@pytest.mark.parametrize(("row", "tool"), CASES)
def test_the_labels_of_the_other_tool_are_ours_with_the_keys_of_the_page(row: str, tool: str) -> None:
    tokenizer = build_tokenizer("qwen3")
    messages, labels = ROWS[row]
    found = _ours(tokenizer, messages, cutoff_len=64 if "limit" in row else 2048, **_keys(row, tool))
    assert found == ([_labels(tokenizer, labels[tool])] if labels[tool] else [])


def test_the_page_has_all_rows_and_a_word_for_every_tool() -> None:
    assert len(_table()) == 21 and set(ROWS) <= set(_table())
    for row, cells in _table().items():
        for tool, cell in cells.items():
            assert " → " in cell or cell in ("–", "no such key"), (row, tool)


def test_an_answer_beyond_the_limit() -> None:
    """TRL, LLaMA-Factory and unsloth keep its start and lose its end mark; axolotl leaves the row out."""
    tokenizer = build_tokenizer("qwen3")
    messages = [U1, {**A1, "content": LONG}]
    row = "answer beyond the limit"
    ids, labels = _labels(tokenizer, f"{Q1}⟦{ET}{LONG}{END}⟧\n")
    for tool in ("TRL", "LLaMA-Factory", "unsloth"):
        assert _ours(tokenizer, messages, cutoff_len=64, **_keys(row, tool)) == [(ids[:64], labels[:64])]
    assert _ours(tokenizer, messages, cutoff_len=64, **_keys(row, "axolotl")) == []


@pytest.mark.parametrize("tool", ["TRL", "axolotl", "unsloth"])
def test_the_date_of_llama_3_1_is_a_fixed_one(tool: str) -> None:
    tokenizer = build_tokenizer("llama3_1")
    head = "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n"
    date = "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n<|eot_id|>"
    ask = "<|start_header_id|>user<|end_header_id|>\n\nWhat is it?<|eot_id|>"
    ask += "<|start_header_id|>assistant<|end_header_id|>\n\n"
    expected = _labels(tokenizer, f"{head}{date}{ask}⟦A red ball.<|eot_id|>⟧")
    assert _ours(tokenizer, [U1, A1], **_keys("today's date, Llama 3.1", tool)) == [expected]


@pytest.mark.parametrize("tool", ["TRL", "axolotl", "unsloth"])
def test_white_space_at_the_ends_of_gemma_3(tool: str) -> None:
    tokenizer = build_tokenizer("gemma3")
    turns = [{"role": "user", "content": "  What is it? \n"}, {"role": "assistant", "content": " A red ball. "}]
    ask = "<bos><start_of_turn>user\nWhat is it?<end_of_turn>\n<start_of_turn>model\n"
    end = "\n⟧" if tool == "TRL" else "⟧\n"
    expected = _labels(tokenizer, f"{ask}⟦A red ball.<end_of_turn>{end}")
    assert _ours(tokenizer, turns, template="gemma3", **_keys("white space at the ends, Gemma 3", tool)) == [expected]
