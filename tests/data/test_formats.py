# SPDX-License-Identifier: Apache-2.0
"""Rows of each layout against messages written by hand."""

from __future__ import annotations

from typing import Any

import pytest

from llamafactory.data.messages import Message, Part, Sample, ToolCall
from llamafactory.data.sources.dataset_info import DatasetAttr, parse_entry
from llamafactory.extras.errors import ConfigError
from llamafactory.plugins import resolve

NAMED = {"prompt": "instruction", "query": "input", "response": "output"}
U, A, S = (lambda text, role=role, **more: Message.of(role, text, **more) for role in ("user", "assistant", "system"))


def convert(row: dict[str, Any], **entry: Any) -> Sample:
    attr: DatasetAttr = parse_entry("set", {"file_name": "x.json", **entry}, "dataset_info.json", ".")
    return resolve("formats", attr.formatting)(row, attr)


def test_alpaca_joins_question_parts_and_reads_history_and_system() -> None:
    row = {"instruction": "Add.", "input": "1 2", "output": "3", "past": [["hi", "hello"]], "sys": "Be brief."}
    sample = convert(row, columns={**NAMED, "history": "past", "system": "sys"})
    assert sample.messages == (S("Be brief."), U("hi"), A("hello"), U("Add.\n1 2"), A("3"))


def test_alpaca_without_answer_pair_and_label() -> None:
    assert convert({"text": "once"}, columns={"prompt": "text"}).messages == (U("once"),)
    pair = convert(
        {"instruction": "q", "good": "yes", "bad": "no"},
        ranking=True,
        columns={"prompt": "instruction", "chosen": "good", "rejected": "bad"},
    )
    assert (pair.messages, pair.chosen, pair.rejected) == ((U("q"),), (A("yes"),), (A("no"),))
    assert (
        convert({"instruction": "q", "output": "a", "tag": False}, columns={**NAMED, "kto_tag": "tag"}).label is False
    )


ROW = {"instruction": "q", "input": "i", "output": "a", "history": [["x", "y"]], "system": "s"}


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (None, (U("q\ni"), A("a"))),
        ({"prompt": "instruction", "response": "output"}, (U("q"), A("a"))),
        ({"prompt": "instruction"}, (U("q"),)),
        ({"query": "input", "response": "output"}, (U("i"), A("a"))),
        ({"prompt": "output"}, (U("a"),)),
    ],
)
def test_columns_are_the_whole_list(columns: dict[str, str] | None, expected: tuple[Message, ...]) -> None:
    assert convert(ROW, columns=columns).messages == expected


def test_ranking_without_columns_and_the_answers_as_a_list_of_two() -> None:
    row = {"instruction": "q", "input": "", "chosen": "yes", "rejected": "no", "output": "old"}
    for entry in ({}, {"columns": {"prompt": "instruction", "chosen": "chosen", "rejected": "rejected"}}):
        pair = convert(row, ranking=True, **entry)
        assert (pair.messages, pair.chosen, pair.rejected) == ((U("q"),), (A("yes"),), (A("no"),))
    both = {"instruction": "q", "output": ["yes", "no"]}
    for entry in ({}, {"columns": {"prompt": "instruction", "response": "output"}}):
        pair = convert(both, ranking=True, **entry)
        assert (pair.messages, pair.chosen, pair.rejected) == ((U("q"),), (A("yes"),), (A("no"),))
    with pytest.raises(ConfigError, match="'output' is \\['a'\\], expected \\[better, worse\\]"):
        convert({"instruction": "q", "output": ["a"]}, ranking=True)
    with pytest.raises(ConfigError, match="missing column 'chosen'"):
        convert({"instruction": "q", "output": "a"}, ranking=True)


def test_sharegpt_takes_any_order_of_roles_and_parallel_calls() -> None:
    row = {
        "conversations": [
            {"from": "system", "value": "s"},
            {"from": "gpt", "value": "How can I help?"},
            {"from": "human", "value": "rain?"},
            {"from": "human", "value": "in Rome and Oslo"},
            {"from": "gpt", "value": "I look.", "train": False},
            {"from": "function_call", "value": '[{"name": "rain", "arguments": {"at": "Rome"}}, {"name": "rain"}]',
             "train": False},
            {"from": "observation", "value": "yes"},
            {"from": "observation", "value": "no"},
            {"from": "gpt", "value": "Rome only.", "weight": 0.5},
        ],
        "tools": '[{"name": "rain", "description": "d", "parameters": {}}]',
    }  # fmt: skip
    sample = convert(row, formatting="sharegpt", columns={"tools": "tools"})
    calls = (ToolCall("rain", {"at": "Rome"}), ToolCall("rain", {}))
    assert sample.messages == (
        S("s"), A("How can I help?"), U("rain?"), U("in Rome and Oslo"),
        Message("assistant", (Part("text", "I look."),), calls, weight=0.0),
        Message.of("tool", "yes"), Message.of("tool", "no"), A("Rome only.", weight=0.5),
    )  # fmt: skip
    assert sample.tools == ({"type": "function", "function": {"name": "rain", "description": "d", "parameters": {}}},)


def test_sharegpt_call_after_a_thought_keeps_the_thought() -> None:
    value = '<think>\nhm\n</think>\n\n{"name": "f", "arguments": {"x": 1}}'
    row = {"conversations": [{"from": "human", "value": "q"}, {"from": "function_call", "value": value}]}
    message = convert(row, formatting="sharegpt").messages[1]
    assert (message.text, message.tool_calls) == ("<think>\nhm\n</think>\n\n", (ToolCall("f", {"x": 1}),))


def test_sharegpt_pairs_and_column_defaults_stay() -> None:
    row = {
        "conversations": [{"from": "human", "value": "q"}],
        "better": {"from": "gpt", "value": "a"},
        "worse": [{"from": "gpt", "value": "b"}],
    }
    # Only two columns are listed: `conversations` keeps its default.
    sample = convert(row, formatting="sharegpt", ranking=True, columns={"chosen": "better", "rejected": "worse"})
    assert (sample.chosen, sample.rejected) == ((A("a"),), (A("b"),))


def test_openai_messages_with_parts_calls_reasoning_and_weights() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
    row = {
        "messages": [
            {"role": "developer", "content": "s"},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "assistant", "content": None, "tool_calls": [call], "train": 0.25},
            {"role": "tool", "content": "7", "tool_call_id": "c1"},
            {"role": "assistant", "content": "seven", "reasoning_content": "easy", "train": True},
        ],
        "tools": [{"type": "function", "function": {"name": "f"}}],
    }
    sample = convert(row, formatting="openai")
    assert sample.messages == (
        S("s"), Message("user", (Part("text", "a"), Part("text", "b"))),
        Message("assistant", (), (ToolCall("f", '{"x": 1}', "c1"),), weight=0.25),
        Message.of("tool", "7", tool_call_id="c1"), A("seven", reasoning="easy", weight=1.0),
    )  # fmt: skip
    assert sample.tools == ({"type": "function", "function": {"name": "f"}},)


def test_thoughts_and_calls_as_parts_and_the_weight_s_other_name() -> None:
    parts = [
        {"type": "reasoning", "value": "hm"}, {"type": "text", "value": "I look."},
        {"type": "tool_call", "value": '{"name": "f", "arguments": {"x": 1}}'},
    ]  # fmt: skip
    row = {
        "messages": [
            {"role": "user", "content": [{"type": "text", "value": "q"}]},
            {"role": "assistant", "content": parts, "loss_weight": 0.5},
        ]
    }
    answer = Message("assistant", (Part("text", "I look."),), (ToolCall("f", {"x": 1}),), "hm", 0.5)
    assert convert(row, formatting="openai").messages == (U("q"), answer)
    broken = {"messages": [{"role": "assistant", "content": [{"type": "tool_call", "value": "f("}]}]}
    with pytest.raises(ConfigError, match="turn 1: messages: the tool_call part is not JSON: 'f\\('"):
        convert(broken, formatting="openai")


def test_openai_with_renamed_tags() -> None:
    tags = {"role_tag": "who", "content_tag": "says", "assistant_tag": "bot"}
    row = {"chat": [{"who": "user", "says": "q"}, {"who": "bot", "says": "a"}]}
    assert convert(row, formatting="openai", columns={"messages": "chat"}, tags=tags).messages == (U("q"), A("a"))


@pytest.mark.parametrize("key", ["arguments", "parameters", "args", "input"])
def test_a_call_keeps_its_arguments_under_each_name(key: str) -> None:
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "tool_calls": [{"name": "f", key: {"x": 1}}]}]
    (_, call) = convert({"messages": turns}, formatting="openai").messages
    assert call.tool_calls == (ToolCall("f", {"x": 1}),)


def test_arguments_under_an_unknown_name_are_an_error() -> None:
    turns = [{"from": "human", "value": "q"}, {"from": "function_call", "value": '{"name": "f", "kwargs": {"x": 1}}'}]
    with pytest.raises(ConfigError, match="turn 2: tool_calls: the call of 'f' has 'kwargs', its arguments are read"):
        convert({"conversations": turns}, formatting="sharegpt")


@pytest.mark.parametrize("formatting", ["openai", "sharegpt"])
def test_the_schema_of_2023(formatting: str) -> None:
    role, content = ("role", "content") if formatting == "openai" else ("from", "value")
    turns = [
        {role: "user", content: "q"},
        {role: "assistant", content: None, "function_call": {"name": "f", "arguments": '{"x": 1}'}},
        {role: "function", "name": "f", content: "3"},
        {role: "assistant", content: "three"},
    ]
    row = {"chat": turns, "functions": [{"name": "f", "parameters": {}}]}
    found = convert(row, formatting=formatting, columns={"messages": "chat", "tools": "functions"})
    call = Message("assistant", (), (ToolCall("f", '{"x": 1}'),))
    assert found.messages == (U("q"), call, Message.of("tool", "3", name="f"), A("three"))


@pytest.mark.parametrize("name", ["parameters", "input_schema", "inputSchema"])
@pytest.mark.parametrize("more", [{}, {"type": "function"}])
def test_tools_without_a_wrapping_are_wrapped_once(name: str, more: dict[str, str]) -> None:
    schema = {"type": "object", "properties": {"x": {"type": "integer"}}}
    row = {"instruction": "q", "output": "a", "t": [{**more, "name": "f", name: schema}]}
    expected = {"type": "function", "function": {"name": "f", "parameters": schema}}
    assert convert(row, columns={**NAMED, "tools": "t"}).tools == (expected,)


def test_the_filled_one_of_several_thoughts_counts() -> None:
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "reasoning_content": ""}]
    row = {"messages": [turns[0], {**turns[1], "reasoning": "hm"}]}
    assert convert(row, formatting="openai").messages[1] == A("a", reasoning="hm")
    assert convert({"messages": turns}, formatting="openai").messages[1] == A("a", reasoning="")


def test_calls_that_join_a_turn_bring_their_thought() -> None:
    call = {"role": "tool_call", "content": '{"name": "f"}', "reasoning": "hm"}
    for first in ({"role": "assistant", "content": "t"}, {**call, "reasoning": None}):
        (_, answer) = convert(
            {"messages": [{"role": "user", "content": "q"}, first, call]}, formatting="openai"
        ).messages
        assert answer.reasoning == "hm"


@pytest.mark.parametrize(
    ("keys", "weight"),
    [
        ({"train": True, "weight": 0.5}, 0.5),
        ({"train": True, "loss": False}, 0.0),
        ({"weight": 1, "masked": True}, 0.0),
        ({"weight": 2, "training": False}, 0.0),
        ({"loss": True, "train": True, "masked": False}, 1.0),
        ({"masked": False}, None),
    ],
)
def test_several_marks_of_one_turn_all_hold(keys: dict[str, Any], weight: float | None) -> None:
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", **keys}]
    assert convert({"messages": turns}, formatting="openai").messages[1].weight == weight


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"weight": 0.5, "loss_weight": 2}, "keys 'weight', 'loss_weight' say different weights"),
        ({"weight": float("nan")}, "key 'weight' is nan"),
    ],
)
def test_weights_that_contradict_are_refused(keys: dict[str, Any], said: str) -> None:
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", **keys}]
    with pytest.raises(ConfigError, match=said):
        convert({"messages": turns}, formatting="openai")


def test_calls_in_turns_of_their_own_are_compared_with_the_calls_before() -> None:
    calls = [{"role": "tool_call", "content": f'{{"name": "{name}"}}', "train": False} for name in "fg"]
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "t"}, *calls]
    (_, answer) = convert({"messages": turns}, formatting="openai").messages
    assert (answer.weight, answer.call_weight, len(answer.tool_calls)) == (None, 0.0, 2)
    del calls[1]["train"]
    with pytest.raises(ConfigError, match="calls made together are trained alike"):
        convert({"messages": turns}, formatting="openai")


@pytest.mark.parametrize(("value", "label"), [(1, True), (0, False), (True, True), ("0", False)])
def test_labels_are_true_or_false_or_1_or_0(value: Any, label: bool) -> None:
    row = {"instruction": "q", "output": "a", "l": value}
    assert convert(row, columns={**NAMED, "kto_tag": "l"}).label is label
    with pytest.raises(ConfigError, match="field 'l' is 2, expected true or false"):
        convert({**row, "l": 2}, columns={**NAMED, "kto_tag": "l"})
