# SPDX-License-Identifier: Apache-2.0
"""What rows hold and nothing reads is named once a set; what a layout says it reads is what it reads."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llamafactory.data.formats.unread import Unread
from llamafactory.data.messages import Message
from llamafactory.data.sources.dataset_info import DatasetAttr, parse_entry
from llamafactory.data.sources.sniff import sniff
from llamafactory.extras import logging as our_logging
from llamafactory.extras.errors import ConfigError
from llamafactory.plugins import resolve
from llamafactory.train.commands.check_data import run_check_data

from .conftest import Prepare, write_jsonl

USER, ANSWER = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
OTHER = {"role": "assistant", "content": "b"}
CALL = [{"name": "f", "parameters": {}}]


class Watched(dict[str, Any]):
    """A row that knows which of its columns were asked for."""

    def __init__(self, row: dict[str, Any]) -> None:
        super().__init__(row)
        self.asked: set[str] = set()

    def __getitem__(self, key: str) -> Any:
        self.asked.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self.asked.add(key)
        return super().get(key, default)


ROWS: list[dict[str, Any]] = [
    {"instruction": "q", "context": "c", "response": "a", "category": "x"},
    {"system_prompt": "s", "question": "q", "response": "a", "id": "1", "history": [["x", "y"]]},
    {"question": "q", "thinking": "hm", "answer": "a", "functions": CALL, "topic": "t"},
    {"prompt": "q", "chosen": "a", "rejected": "b", "system": "s", "reasoning": "hm", "source": "x"},
    {"prompt": "q", "prompt_id": "7", "messages": [USER, ANSWER]},
    {"messages": [USER, ANSWER], "answer": "42", "reasoning": "hm", "tools": CALL},
    {"messages": [USER], "answer": "42", "difficulty": 3},
    {"prompt": [USER], "completion": [ANSWER], "label": True, "score": 1},
    {"chosen": [USER, ANSWER], "rejected": [USER, OTHER], "prompt": "q", "margin": 0.5, "reasoning": "hm"},
    {"messages": [USER, ANSWER], "rejected_response": "b", "channel": "c"},
    {"text": "Rivers run.", "url": "u"},
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: ",".join(row))
def test_a_layout_reads_what_it_is_said_to_read(row: dict[str, Any]) -> None:
    attr = sniff(DatasetAttr("x", "file", "x.jsonl", formatting="auto"), [row])
    watched, unread = Watched(row), Unread()
    resolve("formats", attr.formatting)(watched, attr)
    unread.look(row, attr)
    assert unread.names == row.keys() - watched.asked


def test_a_conversation_counts_before_what_stands_beside_it() -> None:
    for more in ({"prompt": "q", "prompt_id": "7"}, {"answer": "42"}, {"input": "x", "output": "y"}):
        row = {**more, "messages": [USER, ANSWER]}
        attr = sniff(DatasetAttr("x", "file", "x.jsonl", formatting="auto"), [row])
        found = resolve("formats", attr.formatting)(row, attr).messages
        assert found == (Message.of("user", "q"), Message.of("assistant", "a"))


@pytest.mark.parametrize(
    "turn",
    [
        {"reasoning_content": None, "reasoning": "hm"}, {"thinking": "hm"}, {"reasoning": "hm", "thinking": True},
        {"content": [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "a"}]},
    ],
)  # fmt: skip
def test_a_thought_under_any_name(turn: dict[str, Any]) -> None:
    attr = sniff(DatasetAttr("x", "file", "x.jsonl", formatting="auto"), [{"messages": [USER, ANSWER]}])
    (_, answer) = resolve("formats", "openai")({"messages": [USER, ANSWER | turn]}, attr).messages
    assert (answer.text, answer.reasoning) == ("a", "hm")


def test_a_call_has_its_thought_and_masks_are_true_or_false() -> None:
    attr = DatasetAttr("x", "file", "x.jsonl", formatting="sharegpt")
    turns = [{"from": "human", "value": "q"}, {"from": "function_call", "value": '{"name": "f"}', "thinking": "hm"}]
    (_, call) = resolve("formats", "sharegpt")({"conversations": turns}, attr).messages
    assert (call.reasoning, call.tool_calls[0].name) == ("hm", "f")
    turns[1] |= {"masked": 1}
    assert resolve("formats", "sharegpt")({"conversations": turns}, attr).messages[1].weight == 0.0
    turns[1] |= {"masked": "yes"}
    with pytest.raises(ConfigError, match="turn 2: key 'masked' is 'yes', expected true or false"):
        resolve("formats", "sharegpt")({"conversations": turns}, attr)


CHATS = [
    {"conversations": [{"from": "human", "value": "q", "lang": "en"}, {"from": "gpt", "value": "a"}]}
    | ({"topic": "t", "empty": None, "blank": ""} if number == 70 else {})
    for number in range(80)
]


@pytest.fixture
def warned(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setattr(our_logging, "_said", set())

    def lines() -> list[tuple[int, str]]:
        return [(one.levelno, one.message) for one in caplog.records if "what is not read" in one.message]

    yield lines


@pytest.mark.parametrize("keys", [{}, {"streaming": True, "max_steps": 1}, {"preprocessing_num_workers": 2}])
def test_one_warning_names_columns_and_keys(
    tmp_path: Path, prepare: Prepare, warned: Any, keys: dict[str, Any]
) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", CHATS)
    data = prepare(dataset=path, **keys)
    if keys.get("streaming"):
        data.train.rate(0)
    ((level, line),) = warned()
    assert level == logging.WARNING
    assert "a.jsonl: its rows hold what is not read: conversations[].lang, topic (" in line


def test_a_set_of_the_cache_is_named_too(tmp_path: Path, prepare: Prepare, warned: Any) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", CHATS)
    prepare(dataset=path)
    our_logging._said.clear()
    prepare(dataset=path)
    assert len(warned()) == 2 and warned()[0] == warned()[1]


def test_columns_left_out_on_purpose_are_named_mildly(tmp_path: Path, prepare: Prepare, warned: Any) -> None:
    write_jsonl(tmp_path / "a.jsonl", [{"ask": "q", "say": "a", "input": "lost"}])
    (tmp_path / "dataset_info.json").write_text(
        json.dumps({"x": {"file_name": "a.jsonl", "columns": {"prompt": "ask", "response": "say"}}})
    )
    prepare(dataset="x")
    assert [level for level, _ in warned()] == [logging.INFO] and "not read: input (" in warned()[0][1]


def test_labels_are_of_use_to_kto_alone(tmp_path: Path, prepare: Prepare, warned: Any) -> None:
    from llamafactory.data.processor import FeedbackProcessor

    path = write_jsonl(tmp_path / "a.jsonl", [{"prompt": f"q{i}", "completion": "a", "label": i > 1} for i in range(4)])
    prepare(FeedbackProcessor(), stage="kto", dataset=path)
    assert not warned()
    prepare(dataset=path)
    assert "not read: label (" in warned()[0][1]


@pytest.mark.parametrize(
    ("stage", "lost"),
    [
        ("sft", set()), ("dpo", {"chosen[].weight", "messages[].train"}), ("kto", {"messages[].train"}),
        ("pt", {"messages[].train", "messages[].thinking"}),
    ],
)  # fmt: skip
def test_keys_of_turns_that_a_stage_does_not_look_at(stage: str, lost: set[str]) -> None:
    from llamafactory.data import processor

    name = {"sft": "Supervised", "dpo": "Pairwise", "kto": "Feedback", "pt": "Pretrain"}[stage]
    turns = [USER, ANSWER | {"train": False, "thinking": "hm", "tool_calls": CALL}]
    row: dict[str, Any] = {"messages": turns}
    if stage == "dpo":
        row |= {"chosen": [ANSWER | {"weight": 0.5}], "rejected": [OTHER]}
    attr = sniff(DatasetAttr("x", "file", "x.jsonl", formatting="auto"), [row])
    unread = Unread(getattr(processor, f"{name}Processor").unused)
    unread.look(row, attr)
    assert unread.names == lost


def test_a_list_of_both_answers_is_read() -> None:
    attr = parse_entry("x", {"file_name": "a.json", "ranking": True}, "dataset_info.json", ".")
    unread = Unread()
    unread.look({"instruction": "q", "output": ["a", "b"]}, attr)
    assert not unread.names
    unread.look({"instruction": "q", "output": "lost", "chosen": "a", "rejected": "b"}, attr)
    assert unread.names == {"output"}


def test_check_data_names_them(tiny_llama: Path, tmp_path: Path, capsys: Any) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", CHATS)
    folder = tmp_path / "o"
    run_check_data(
        {"model_name_or_path": str(tiny_llama), "template": "chatml", "output_dir": str(folder), "dataset": path}
    )
    assert capsys.readouterr().out.count("not read: conversations[].lang, topic") == 1
    (found,) = json.loads((folder / "check_data.json").read_text())["sets"]
    assert found["counts"]["unread"] == ["conversations[].lang", "topic"]


def test_an_entry_of_conversations_reads_no_column_beside_them() -> None:
    entry = {"file_name": "a.json", "formatting": "sharegpt", "columns": {"messages": "c", "prompt": "p"}}
    attr = parse_entry("x", entry, "dataset_info.json", ".")
    row = {"p": "other", "c": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}
    assert [message.text for message in resolve("formats", "sharegpt")(row, attr).messages] == ["q", "a"]


@pytest.mark.parametrize(
    ("turn", "names"),
    [
        ({"content": [{"type": "text", "text": "a", "train": False, "loss": False, "empty": None}]},
         {"messages[].content[].train", "messages[].content[].loss"}),
        ({"content": [{"type": "text", "text": "a"}, {"type": "text", "value": "b", "zzz": 1, "url": "u"}]},
         {"messages[].content[].zzz", "messages[].content[].url"}),
        ({"content": [{"type": "thinking", "thinking": "hm", "signature": "x"}, {"type": "text", "text": "a"}]},
         {"messages[].content[].signature"}),
        ({"content": None, "tool_calls": [{"id": "1", "type": "function", "index": 0, "weight": 0,
                                           "function": {"name": "f", "arguments": "{}", "strict": True}}]},
         {"messages[].tool_calls[].weight", "messages[].tool_calls[].strict"}),
        ({"content": [{"type": "image_url", "image_url": {"url": "a.png", "detail": "low"}}]}, set()),
    ],
)  # fmt: skip
def test_keys_of_parts_and_calls_are_named(turn: dict[str, Any], names: set[str]) -> None:
    row = {"messages": [USER, {"role": "assistant", **turn}]}
    attr = sniff(DatasetAttr("x", "file", "x.jsonl", formatting="auto"), [row])
    for given in (row, {"messages": json.dumps(row["messages"])}):
        unread = Unread()
        unread.look(given, attr)
        assert unread.names == names


def test_a_mark_of_a_part_is_said(tmp_path: Path, prepare: Prepare, warned: Any) -> None:
    part = {"type": "text", "text": "a", "train": False}
    prepare(dataset=write_jsonl(tmp_path / "a.jsonl", [{"messages": [USER, {"role": "assistant", "content": [part]}]}]))
    ((level, line),) = warned()
    assert level == logging.WARNING and "messages[].content[].train" in line
