# SPDX-License-Identifier: Apache-2.0
"""The demo sets in data/: complete, well-formed, as described in their README, and without the held-out questions."""

from __future__ import annotations

import importlib
import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from llamafactory.data.sources.dataset_info import find_datasets
from llamafactory.data.sources.files import read_rows

DATA = Path(__file__).resolve().parents[2] / "data"
LISTING: dict[str, dict[str, Any]] = json.loads((DATA / "dataset_info.json").read_text(encoding="utf-8"))
MINIMUM = {
    "identity": 110,
    "alpaca_en_demo": 220,
    "alpaca_zh_demo": 110,
    "multi_turn_demo": 25,
    "tools_demo": 25,
    "agent_demo": 12,
    "reasoning_demo": 20,
    "dpo_en_demo": 60,
    "dpo_en_heldout": 40,
    "dpo_zh_demo": 25,
    "kto_en_demo": 60,
    "pt_demo": 40,
    "sums_demo": 100,
    "products_demo": 100,
    "tickets_demo": 90,
    "questions_demo": 64,
}
MEDIA = {"mllm_demo", "mllm_video_demo", "mllm_audio_demo"}  # what they hold is tested where media are trained
MAKER = re.compile(
    r"\b(made|makes?|making|maker|built|created?|creator|develop(ed|ers?)?|trained|designed|programmed|wrote|owns|company|organization)\b"
    r"|开发|创造|训练|公司|机构",
    re.IGNORECASE,
)


def load(name: str) -> list[dict[str, Any]]:
    """Read a set with nothing but the standard library: the oracle for the project's own reader."""
    path = DATA / LISTING[name]["file_name"]
    text = path.read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()] if path.suffix == ".jsonl" else json.loads(text)


def question(row: dict[str, Any]) -> str:
    """Return what a row asks (or its text), the part by which two rows are the same row."""
    if "instruction" in row:
        return f"{row['instruction']}\n{row.get('input', '')}"
    if "text" in row or "query" in row:
        return row.get("text") or row["query"]
    turns = row.get("conversations") or row["messages"]
    first = next(turn for turn in turns if (turn.get("from") or turn["role"]) in ("human", "user"))
    return first.get("value") or first["content"]


def words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))


def test_listing_names_the_promised_sets() -> None:
    assert LISTING.keys() == MINIMUM.keys() | MEDIA
    files = {path.name for path in DATA.iterdir() if path.suffix in (".json", ".jsonl")} - {"dataset_info.json"}
    assert {entry["file_name"] for entry in LISTING.values()} == files


@pytest.mark.parametrize("name", MINIMUM)
def test_rows_are_enough_and_none_is_twice(name: str) -> None:
    rows = load(name)
    assert len(rows) >= MINIMUM[name]
    questions = [question(row).strip().lower() for row in rows]
    assert all(questions)
    assert len(set(questions)) == len(questions)


@pytest.mark.parametrize("name", MINIMUM)
def test_project_reads_every_row(name: str) -> None:
    [attr] = find_datasets([name], str(DATA))
    convert = importlib.import_module(f"llamafactory.data.formats.{attr.formatting}").convert
    samples = [convert(row, attr) for _, row in read_rows(attr)]
    assert len(samples) == len(load(name))
    for sample in samples:
        assert (sample.chosen is not None) == (sample.rejected is not None) == attr.ranking
        assert (sample.label is not None) == (name == "kto_en_demo")
        assert (sample.target is not None) == (name == "tickets_demo")
        if attr.ranking or name in ("pt_demo", "tickets_demo", "questions_demo"):
            assert [message.role for message in sample.messages] == ["user"]
        else:
            assert sample.messages[-1].role == "assistant"


def test_sums_are_right() -> None:
    for row in load("sums_demo"):
        first, second = map(int, re.findall(r"\d+", row["instruction"]))
        assert int(row["output"]) == first + second


def test_products_are_right() -> None:
    for row in load("products_demo"):
        first, second = map(int, re.findall(r"\d+", row["instruction"]))
        assert int(row["output"]) == first * second


@pytest.mark.parametrize("name", ["identity", "alpaca_en_demo", "alpaca_zh_demo"])
def test_alpaca_fields_are_filled(name: str) -> None:
    for row in load(name):
        assert row.keys() == {"instruction", "input", "output"}
        assert row["instruction"].strip() and row["output"].strip(), row


def test_identity_answers_carry_the_placeholders() -> None:
    rows = load("identity")
    named = [row for row in rows if "{{name}}" in row["output"]]
    ordinary = [row for row in rows if "{{name}}" not in row["output"]]
    assert len(named) >= 110
    assert len(ordinary) <= 15 and ordinary == rows[-len(ordinary) :]
    assert sum(bool(re.search("[一-鿿]", row["instruction"])) for row in named) >= 30
    for row in named:
        # No misspelt placeholder may be left when both are filled in.
        assert not set("{}") & set(row["output"].replace("{{name}}", "N").replace("{{author}}", "A")), row
        if MAKER.search(row["instruction"]):
            assert "{{author}}" in row["output"], row


@pytest.mark.parametrize("name", MINIMUM)
def test_held_out_questions_are_absent(name: str, held_out_questions: tuple[str, ...]) -> None:
    for row in load(name):
        asked = words(question(row))
        for held_out in held_out_questions:
            kept = words(held_out)
            overlap = len(asked & kept) / len(asked | kept)
            assert overlap < 0.55, f"{question(row)!r} is too close to {held_out!r}"


@pytest.mark.parametrize("name", ["multi_turn_demo", "tools_demo"])
def test_sharegpt_turns(name: str) -> None:
    from_person = {"human", "observation"}
    for row in load(name):
        turns = row["conversations"]
        assert all(turn["value"].strip() for turn in turns)
        speakers = [turn["from"] in from_person for turn in turns]
        assert speakers == [position % 2 == 0 for position in range(len(turns))], "person and model do not alternate"
        assert turns[-1]["from"] == "gpt"
        if name == "multi_turn_demo":
            assert 2 <= len(turns) // 2 <= 5


def test_sharegpt_calls_name_their_tools() -> None:
    parallel = without = failed = 0
    for row in load("tools_demo"):
        tools = {tool["name"]: tool["parameters"] for tool in json.loads(row["tools"])}
        turns = row["conversations"]
        without += all(turn["from"] != "function_call" for turn in turns)
        for turn, result in pairwise(turns):
            if turn["from"] != "function_call":
                continue
            assert result["from"] == "observation"
            calls = json.loads(turn["value"])
            parallel += isinstance(calls, list)
            failed += '"error"' in result["value"]
            for call in calls if isinstance(calls, list) else [calls]:
                check_call(call["name"], call["arguments"], tools)
            if isinstance(calls, list):
                assert len(json.loads(result["value"])) == len(calls)
    assert min(parallel, without, failed) >= 3


def test_openai_calls_name_their_tools_and_are_answered() -> None:
    for row in load("agent_demo"):
        tools = {tool["function"]["name"]: tool["function"]["parameters"] for tool in row["tools"]}
        waiting: list[str] = []
        for message in row["messages"]:
            if message["role"] == "tool":
                assert message["tool_call_id"] == waiting.pop(0)
                continue
            assert not waiting, "a call has no result"
            for call in message.get("tool_calls", []):
                check_call(call["function"]["name"], json.loads(call["function"]["arguments"]), tools)
                waiting.append(call["id"])
            assert message["content"].strip() or message.get("tool_calls")
        assert row["messages"][-1]["role"] == "assistant" and not waiting
    assert any(message.get("reasoning_content") for row in load("agent_demo") for message in row["messages"])


def check_call(name: str, arguments: dict[str, Any], tools: dict[str, Any]) -> None:
    """A call fits the tool it names: required arguments given, none unknown, values of the declared types."""
    kinds = {"string": str, "integer": int, "number": int | float, "array": list}
    properties = tools[name]["properties"]
    assert set(tools[name]["required"]) <= arguments.keys() <= properties.keys(), (name, arguments)
    for key, value in arguments.items():
        assert isinstance(value, kinds[properties[key]["type"]]), (name, key, value)
        assert value in properties[key].get("enum", [value]), (name, key, value)


def test_reasoning_rows_have_thought_and_answer() -> None:
    for row in load("reasoning_demo"):
        answer = row["messages"][-1]
        assert answer["role"] == "assistant" and answer["content"].strip() and answer["reasoning_content"].strip()


@pytest.mark.parametrize("name", ["dpo_en_demo", "dpo_en_heldout", "dpo_zh_demo"])
def test_pairs_differ(name: str) -> None:
    for row in load(name):
        chosen, rejected = row["chosen"], row["rejected"]
        assert chosen["from"] == rejected["from"] == "gpt"
        assert chosen["value"].strip() and rejected["value"].strip() and chosen["value"] != rejected["value"]


def test_held_out_pairs_are_not_trained_on() -> None:
    for row in load("dpo_en_heldout"):
        asked = words(question(row))
        for other in load("dpo_en_demo"):
            kept = words(question(other))
            assert len(asked & kept) / len(asked | kept) < 0.75, (question(row), question(other))
            assert row["chosen"] != other["chosen"] and row["rejected"] != other["rejected"]


def test_kto_labels_are_balanced() -> None:
    labels = [row["label"] for row in load("kto_en_demo")]
    assert all(isinstance(label, bool) for label in labels)
    assert 0.4 <= sum(labels) / len(labels) <= 0.6


def test_paragraphs_have_the_promised_length() -> None:
    for row in load("pt_demo"):
        chinese = re.findall("[一-鿿]", row["text"])
        assert 80 <= len(chinese or row["text"].split()) <= 300, row["text"][:40]


def test_readme_states_the_true_numbers() -> None:
    table = re.findall(r"^\| `(\w+)` \| `([\w.]+)` \| (\d+) \|", (DATA / "README.md").read_text(encoding="utf-8"), re.M)
    assert {(name, file, int(rows)) for name, file, rows in table} == {
        (name, entry["file_name"], len(load(name))) for name, entry in LISTING.items()
    }
