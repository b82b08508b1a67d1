# SPDX-License-Identifier: Apache-2.0
"""Half a character inside JSON text that a field holds, or in settings: one line with the place, never a traceback."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llamafactory.data.messages import Message, Sample, ToolCall
from llamafactory.data.processor import PretrainProcessor, PromptProcessor, SupervisedProcessor
from llamafactory.data.template.jinja_template import JinjaTemplate
from llamafactory.extras.errors import ConfigError
from llamafactory.hparams import get_train_args

from .conftest import Prepare, write_jsonl
from .templates.binding import sample
from .templates.trained_tokenizers import build_tokenizer

HALF = r'"\ud800"'
A = {"role": "assistant", "content": "a"}
U = {"role": "user", "content": "q"}
CALL = f'{{"name": "f", "arguments": {{"x": {HALF}}}}}'
ROWS: dict[str, dict[str, Any]] = {
    "messages": {"messages": f'[{{"role": "user", "content": {HALF}}}, {{"role": "assistant", "content": "a"}}]'},
    "function_call turn": {
        "conversations": [{"from": "human", "value": "q"}, {"from": "function_call", "value": CALL}]
    },
    "tools": {"messages": [U, A], "tools": f'[{{"name": "f", "description": {HALF}, "parameters": {{}}}}]'},
    "history": {"instruction": "q", "output": "a", "history": f'[[{HALF}, "b"]]'},
    "tool_call part": {"messages": [U, {"role": "assistant", "content": [{"type": "tool_call", "value": CALL}]}]},
    "arguments": {
        "messages": [U, {"role": "assistant", "tool_calls": [{"name": "f", "arguments": f'{{"x": {HALF}}}'}]}]
    },
}


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
@pytest.mark.parametrize("processor", [SupervisedProcessor, PromptProcessor, PretrainProcessor])
def test_json_text_inside_a_row(row: dict[str, Any], processor: Any, prepare: Prepare, tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "a.jsonl", [row])
    stage = {"stage": "pt"} if processor is PretrainProcessor else {}
    keys = {"dataset": file, "eval_dataset": file} if processor is PromptProcessor else {"dataset": file}
    with pytest.raises(ConfigError, match=r"a\.jsonl line 1: .*\\ud800 is half a character and no text"):
        prepare(processor(), **keys, **stage)


def test_a_whole_pair_is_a_character(prepare: Prepare, tmp_path: Path) -> None:
    row = {"messages": '[{"role": "user", "content": "\\ud83d\\ude00"}, {"role": "assistant", "content": "a"}]'}
    (found,) = prepare(dataset=write_jsonl(tmp_path / "a.jsonl", [row])).train
    assert found["input_ids"]


@pytest.mark.parametrize("text", ["a\udcff", "\ud800"])
def test_the_system_text_of_the_settings(text: str) -> None:
    keys = {"model_name_or_path": "x", "dataset": "x", "output_dir": "x", "template": "chatml", "stage": "sft"}
    with pytest.raises(ConfigError, match=r"^default_system: \\ud.* is half a character"):
        get_train_args({**keys, "default_system": text})


def test_a_literal_of_a_jinja() -> None:
    template = JinjaTemplate(
        build_tokenizer("qwen3"), "mine.jinja",
        r"{% for m in messages %}{{ '\ud800' }}{{ m.role }}: {{ m.content }}<|im_end|>{% endfor %}",
    )  # fmt: skip
    for run in (lambda: template.encode_batch([sample([U, A])]), lambda: template.encode_prompt(sample([U]).messages)):
        with pytest.raises(ConfigError, match=r"template mine.jinja: the text that it writes: \\ud800 is half"):
            run()


def test_arguments_of_a_message() -> None:
    """Where the API reads them too, before any dialect writes their values one by one."""
    with pytest.raises(ConfigError, match=r"tool_calls: arguments of 'f': \\ud800 is half a character"):
        Message.from_openai({"role": "assistant", "tool_calls": [{"name": "f", "arguments": f'{{"x": {HALF}}}'}]})


def test_objects_that_hold_one_are_named_by_the_template() -> None:
    from .templates.binding import bind

    call = ToolCall("f", {"x": "\ud800"})
    chat = Sample((Message.of("user", "q"), Message("assistant", (), (call,))))
    with pytest.raises(ConfigError, match=r"template qwen: the text that it writes: \\ud800 is half"):
        bind(build_tokenizer("qwen"), "qwen").encode_batch([chat])
