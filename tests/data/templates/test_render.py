# SPDX-License-Identifier: Apache-2.0
"""Conversations written out as text, by name and from the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llamafactory.cli import main
from llamafactory.data import render
from llamafactory.extras.errors import ConfigError
from llamafactory.plugins import TEMPLATES, resolve

from .binding import bind
from .cases import CASES, WEATHER, A, S, U
from .trained_tokenizers import build_tokenizer


def test_a_name_is_enough() -> None:
    assert render("qwen3", [S, U], add_generation_prompt=True, enable_thinking=False) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhat is the weather in Paris?<|im_end|>\n"
        "<|im_start|>assistant\n<think>\n\n</think>\n\n"
    )
    assert render("llama2", [U, A]) == "<s>[INST] What is the weather in Paris? [/INST] Sunny, 21 degrees. </s>"
    assert "get_weather" in render("gemma3", [U], [WEATHER])


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_name_writes_what_a_bound_template_writes(name: str) -> None:
    """With a tokenizer that has the family's usual tokens, and does not begin texts with BOS by itself."""
    tokenizer = build_tokenizer(name)
    chat = resolve("templates", name)
    bos, eos = chat.bos_eos
    tokenizer.add_special_tokens({"bos_token": bos or "<none>", "eos_token": chat.eos or eos})
    template = bind(tokenizer, name)
    for case in [case for case in CASES if "late_system" not in case.tags][::5]:
        for prompt in (False, True):
            written = render(template, case.messages, case.tools, prompt)
            assert render(name, case.messages, case.tools, prompt) == (
                written if bos else written.replace("<none>", "")
            )


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ConfigError, match="qwen3"):
        render("qwen33", [U])


@pytest.mark.parametrize("wrapped", [False, True])
def test_on_the_command_line(wrapped: bool, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "conversation.json"
    file.write_text(json.dumps({"messages": [U], "tools": [WEATHER]} if wrapped else [U]), encoding="utf-8")
    monkeypatch.setattr("sys.argv", ["llamafactory-cli", "preview", "template=qwen3", f"messages={file}"])
    assert not main()
    assert capsys.readouterr().out == render("qwen3", [U], [WEATHER] if wrapped else None, True) + "\n"


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    from llamafactory.train.commands.preview import run_preview

    file = tmp_path / "conversation.json"
    file.write_text("[{", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"conversation\.json"):
        run_preview(["template=qwen3", f"messages={file}"])
    with pytest.raises(ConfigError, match="template: missing"):
        run_preview([f"messages={file}"])
