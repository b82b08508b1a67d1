# SPDX-License-Identifier: Apache-2.0
"""What an export says about prompts: chat template, stop tokens, Ollama Modelfile."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, GenerationConfig

from llamafactory.data.messages import Message
from llamafactory.data.template_loader import get_template
from llamafactory.export import export, proof
from llamafactory.export.proof import ExportFailure
from llamafactory.hparams import get_infer_args
from llamafactory.model import load_tokenizer

# Written here on their own: the proof has its own probes.
CONVERSATIONS = [
    [{"role": "user", "content": "Name three rivers."}],
    [{"role": "system", "content": "Talk like a pirate."}, {"role": "user", "content": "Hello\nthere"}],
    [
        {"role": "user", "content": "2 + 2"},
        {"role": "assistant", "content": "4"},
        {"role": "user", "content": "and 3 + 3?"},
    ],
]


def run(base: Path, out: Path, **keys: Any) -> dict[str, Any]:
    settings = {"model_name_or_path": str(base), "export_dir": str(out), "template": "chatml", **keys}
    export.run_export(settings)
    return settings


@pytest.mark.parametrize(
    "keys",
    [
        {"template": "chatml"},
        {"template": "llama3"},
        {"template": "qwen3"},
        {"template": "qwen3_5"},
        {"template": "default"},
        {"template": "gemma"},
        {"template": "alpaca"},
        {"template": "vicuna"},
        {"template": "chatml", "default_system": "You are Ada, 'the' \"first\"\nprogrammer."},
        {"template": None},
    ],
    ids=lambda keys: str(keys["template"]) + ("-system" if "default_system" in keys else ""),
)
def test_stock_tokenizer_renders_what_was_trained(tiny_llama: Path, tmp_path: Path, keys: dict[str, Any]) -> None:
    settings = run(tiny_llama, tmp_path / "out", **keys)
    args = get_infer_args(settings)
    template = get_template(load_tokenizer(args.model), args.data)
    stranger = AutoTokenizer.from_pretrained(tmp_path / "out")
    for conversation in CONVERSATIONS:
        ours = template.encode_prompt([Message.from_openai(message) for message in conversation])
        theirs = stranger.apply_chat_template(conversation, add_generation_prompt=True, return_dict=False)
        assert ours == theirs
    ends = json.loads((tmp_path / "out" / "generation_config.json").read_text())["eos_token_id"]
    assert set(template.stop_token_ids) <= set(ends)


def test_the_tokenizers_own_template_is_kept_when_it_says_the_same(tiny_llama: Path, tmp_path: Path) -> None:
    own = AutoTokenizer.from_pretrained(tiny_llama).chat_template
    run(tiny_llama, tmp_path / "same", template=None)
    assert AutoTokenizer.from_pretrained(tmp_path / "same").chat_template == own
    run(tiny_llama, tmp_path / "other", template="llama3")
    assert AutoTokenizer.from_pretrained(tmp_path / "other").chat_template != own


def test_a_template_that_drifts_is_caught(tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def drifting(tokenizer: Any, template: Any, folder: Path) -> None:
        tokenizer.chat_template = tokenizer.chat_template.replace("assistant\\n", "assistant ").replace(
            "assistant\n", "assistant "
        )
        tokenizer.save_pretrained(folder)

    monkeypatch.setattr(export, "_write_tokenizer", drifting)
    with pytest.raises(ExportFailure, match=r"probe conversation 0 differs at token \d+"):
        run(tiny_llama, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_advice_on_sampling_survives(make_tiny_model: Any, tmp_path: Path) -> None:
    base = make_tiny_model()
    (base / "generation_config.json").write_text(json.dumps({"temperature": 0.6, "top_p": 0.9, "eos_token_id": 7}))
    run(base, tmp_path / "out")
    found = GenerationConfig.from_pretrained(tmp_path / "out")
    assert (found.temperature, found.top_p, found.do_sample) == (0.6, 0.9, True)
    assert found.eos_token_id == [2, 7] and found.pad_token_id == 0


def test_modelfile(tiny_llama: Path, tmp_path: Path) -> None:
    run(tiny_llama, tmp_path / "out", default_system="You are Ada.")
    text = (tmp_path / "out" / "Modelfile").read_text()
    assert text.startswith("FROM .") or "\nFROM ." in text
    assert "<|im_start|>" in text and 'PARAMETER stop "<|im_end|>"' in text and "You are Ada." in text


def test_the_probes_reach_every_part_of_a_template() -> None:
    roles = {message.role for messages, _, _ in proof.PROBES for message in messages}
    assert roles >= {"system", "user", "assistant"}
    assert any(tools for _, tools, _ in proof.PROBES)
    assert {prompt for _, _, prompt in proof.PROBES} == {True, False}
