# SPDX-License-Identifier: Apache-2.0
"""Rows as other tools and people lay them out, against messages written by hand."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from llamafactory.data.messages import Message, Sample, ToolCall
from llamafactory.data.sources.dataset_info import DatasetAttr, find_datasets
from llamafactory.data.sources.reading import open_set, to_samples
from llamafactory.data.sources.sniff import sniff
from llamafactory.extras.errors import ConfigError
from llamafactory.plugins import resolve

from .conftest import Prepare, write_jsonl

U, A, S = (lambda text, role=role, **more: Message.of(role, text, **more) for role in ("user", "assistant", "system"))
UQ, AY, AN = (
    {"role": "user", "content": "q"},
    {"role": "assistant", "content": "y"},
    {"role": "assistant", "content": "n"},
)


def read(row: dict[str, Any]) -> Sample:
    attr = sniff(DatasetAttr("x", "file", "x.jsonl", formatting="auto"), [row])
    return resolve("formats", attr.formatting)(row, attr)


@pytest.mark.parametrize(
    "row",
    [
        {"Question": "q", "Answer": "a"}, {"QUESTION": "q", "answer ": "a"}, {"input": "q", "output": "a"},
        {"prompt": "q", "completion": "a"}, {"user": "q", "assistant": "a"}, {"问题": "q", "回答": "a"},
        {"指令": "q", "输入": "", "输出": "a"}, {"Frage": "q", "Antwort": "a"}, {"problem": "q", "solution": "a"},
        {"prompt": [UQ], "completion": [{"role": "assistant", "content": "a"}]},
        {"prompt": "q", "completion": [{"role": "assistant", "content": "a"}]},
        {"messages": [{"from": "human", "value": "q"}, {"from": "chatgpt", "value": "a"}]},
    ],
)  # fmt: skip
def test_one_question_and_its_answer(row: dict[str, Any]) -> None:
    assert read(row).messages == (U("q"), A("a"))


def test_context_system_and_thought_of_a_row_are_read() -> None:
    row = {"instruction": "q", "context": "c", "response": "a", "system_prompt": "s"}
    assert read(row).messages == (S("s"), U("q\nc"), A("a"))
    assert read({"Question": "q", "Complex_CoT": "hm", "Response": "a"}).messages == (U("q"), A("a", reasoning="hm"))
    turns = [UQ, {"role": "assistant", "content": "a", "thinking": "hm"}]
    assert read({"messages": turns}).messages == (U("q"), A("a", reasoning="hm"))


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "q", "chosen": "y", "rejected": "n"},
        {"prompt": [UQ], "chosen": [AY], "rejected": [AN]},
        {"chosen": [UQ, AY], "rejected": [UQ, AN]},
        {"prompt": "q", "chosen": [UQ, AY], "rejected": [UQ, AN], "messages": [UQ, AY]},
        {"messages": [UQ, AY], "rejected_response": "n"},
        {"messages": [UQ, AY], "rejected_messages": [UQ, AN]},
        {"messages": [{**UQ, "role": "User"}, {**AY, "role": "Assistant"}], "rejected_response": "n"},
        {"chosen": "\n\nHuman: q\n\nAssistant: y", "rejected": "\n\nHuman: q\n\nAssistant: n"},
    ],
)
def test_pairs(row: dict[str, Any]) -> None:
    sample = read(row)
    assert (sample.messages, sample.chosen, sample.rejected) == ((U("q"),), (A("y"),), (A("n"),))


def test_two_conversations_share_their_system_text() -> None:
    sample = read({"messages": [UQ, AY, UQ, AY], "rejected_messages": [UQ, AY, UQ, AN], "system": "s"})
    assert sample.messages == (S("s"), U("q"), A("y"), U("q"))
    assert (sample.chosen, sample.rejected) == ((A("y"),), (A("n"),))


@pytest.mark.parametrize(("role", "content"), [("role", "content"), ("from", "value")])
@pytest.mark.parametrize("names", [("user", "model"), ("User", "Model"), ("HUMAN", "GPT"), ("Human", "ChatGPT")])
def test_roles_of_other_tools_in_any_case(names: tuple[str, str], role: str, content: str) -> None:
    turns = [{role: names[0], content: "q"}, {role: names[1], content: "a"}]
    assert read({"conversations": turns}).messages == (U("q"), A("a"))
    assert read({"conversations": turns, "answer": "again"}).messages == (U("q"), A("a"))


def test_a_judged_conversation() -> None:
    sample = read({"prompt": [UQ], "completion": [AY], "label": False})
    assert (sample.messages, sample.label) == ((U("q"), A("y")), False)


def test_tool_turns_of_ms_swift_and_masks_of_other_tools() -> None:
    call = json.dumps({"name": "f", "arguments": {"x": 1}})
    turns = [
        UQ, {"role": "tool_call", "content": call}, {"role": "tool_call", "content": call},
        {"role": "tool_response", "content": "7"}, {"role": "assistant", "content": "a", "loss": False},
        {"role": "user", "content": "q"}, {"role": "assistant", "content": "b", "training": False},
        {"role": "assistant", "content": "c", "masked": True}, {"role": "assistant", "content": "d", "trainable": True},
    ]  # fmt: skip
    calls = (ToolCall("f", {"x": 1}),) * 2
    assert read({"messages": turns}).messages == (
        U("q"), Message("assistant", (), calls), Message.of("tool", "7"), A("a", weight=0.0), U("q"),
        A("b", weight=0.0), A("c", weight=0.0), A("d", weight=1.0),
    )  # fmt: skip


def test_files_of_a_folder_each_have_their_layout(tmp_path: Path, prepare: Prepare) -> None:
    folder = tmp_path / "rows"
    folder.mkdir()
    write_jsonl(folder / "a.jsonl", [{"question": "q1", "answer": "a1"}])
    write_jsonl(folder / "b.jsonl", [{"messages": [{"role": "user", "content": "q2"}, {**AY, "content": "a2"}]}])
    (folder / "c.csv").write_text("prompt;response\nq3;a3\n")
    [attr] = find_datasets([str(folder)], str(tmp_path))
    settled, rows = open_set(attr, None, 0)
    found = [sample.messages for sample in to_samples(rows, settled)]
    assert found == [(U(f"q{i}"), A(f"a{i}")) for i in (1, 2, 3)]
    whole = prepare(dataset=str(folder)).train
    stream = prepare(dataset=str(folder), streaming=True, max_steps=1).train
    assert stream.encode(stream.order(0, None)).table.column("input_ids").to_pylist() == whole["input_ids"][:]


@pytest.mark.parametrize(
    "columns", ["prompt=Kunde,response=Wir", "prompt = kunde, response=wir", {"prompt": "Kunde", "response": "Wir"}]
)
def test_columns_name_what_names_do_not_tell(tmp_path: Path, prepare: Prepare, columns: Any) -> None:
    with (tmp_path / "a.csv").open("w", newline="") as file:
        csv.writer(file, delimiter=";").writerows([["Nr", "Kunde", "Wir"], ["1", "Hallo?", "Guten Tag"]])
    path = str(tmp_path / "a.csv")
    with pytest.raises(ConfigError, match=r'layout: Nr, Kunde, Wir; known layouts: .*"prompt=Kunde,response=Wir"'):
        prepare(dataset=path)
    for streaming in (False, True):
        assert prepare(dataset=path, columns=columns, streaming=streaming, max_steps=1).train is not None
    [attr] = find_datasets([path], str(tmp_path), columns)
    settled, rows = open_set(attr, None, 0)
    assert [sample.messages for sample in to_samples(rows, settled)] == [(U("Hallo?"), A("Guten Tag"))]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ("prompt", "columns: 'prompt' is not of the form"),
        ("promt=q", "columns: unknown key 'promt'; did you mean prompt"),
        ("prompt=nosuch,response=a", "columns: .* has no column 'nosuch'; it has q, a"),
    ],
)
def test_wrong_columns_are_one_line(tmp_path: Path, prepare: Prepare, columns: str, message: str) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"q": "x", "a": "y"}])
    with pytest.raises(ConfigError, match=message):
        prepare(dataset=path, columns=columns)


@pytest.mark.parametrize("streaming", [False, True])
def test_running_text_is_refused_under_sft(tmp_path: Path, prepare: Prepare, streaming: bool) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"text": "Rivers run."}])
    with pytest.raises(ConfigError, match=r"running text .*use stage: pt"):
        prepare(dataset=path, streaming=streaming, max_steps=1)
