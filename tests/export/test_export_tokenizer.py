# SPDX-License-Identifier: Apache-2.0
"""What an export says of a tokenizer that other programs read otherwise, or cannot read."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig, AutoTokenizer

from llamafactory.export.export import run_export
from llamafactory.export.gguf.vocabulary import vocabulary
from llamafactory.export.readers import REFUSED, RIGHT, verdicts
from llamafactory.extras.errors import ConfigError
from llamafactory.model.tokenizer import open_tokenizer

WORDS = {"type": "Split", "pattern": {"Regex": r"\w+|\s+|[^\w\s]"}, "behavior": "Isolated", "invert": False}
TEXT = "Hello  World 12345\n it's"


def _with_own_splitting(model: Path, folder: Path) -> Path:
    """The model with a tokenizer that no class of transformers builds."""
    shutil.copytree(model, folder)
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    content["normalizer"] = {"type": "Lowercase"}
    content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [
        WORDS, {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
    ]}  # fmt: skip
    file.write_text(json.dumps(content), encoding="utf-8")
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


@pytest.mark.parametrize("kind", ["qwen2", "llama"])
def test_a_tokenizer_that_transformers_replaces_is_said(
    kind: str, make_tiny_model: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside a qwen2 config AutoTokenizer gives other ids for the exported folder; beside llama it does not."""
    monkeypatch.setattr(logging.getLogger("llamafactory"), "propagate", True)
    folder = _with_own_splitting(make_tiny_model(kind), tmp_path / "base")
    out = tmp_path / "out"
    run_export({"model_name_or_path": str(folder), "template": "chatml", "export_dir": str(out)})
    elsewhere, here = AutoTokenizer.from_pretrained(out)(TEXT)["input_ids"], open_tokenizer(str(out))(TEXT)["input_ids"]
    assert (elsewhere != here) == (kind == "qwen2")
    said = "replaces the tokenizer by Qwen2Tokenizer, which gives other tokens" in caplog.text
    assert said == (kind == "qwen2")
    found = {one["reader"]: one for one in json.loads((out / "compatibility.json").read_text())["readers"]}
    assert found["llama.cpp/Ollama"]["verdict"] == REFUSED and "splitting" in found["llama.cpp/Ollama"]["words"]


def test_the_verdict_on_llama_cpp_looks_at_the_tokenizer(tiny_llama: Path, tmp_path: Path) -> None:
    """What the writer of GGUF files refuses is refused, with its words."""
    config = AutoConfig.from_pretrained(tiny_llama)
    folder = _with_own_splitting(tiny_llama, tmp_path / "other")
    for place, wanted in ((tiny_llama, RIGHT), (folder, REFUSED)):
        tokenizer = open_tokenizer(str(place))
        found = {one.reader: one for one in verdicts(config, tokenizer)}
        assert found["llama.cpp/Ollama"].verdict == wanted
        assert {one.reader: one for one in verdicts(config)} | {"llama.cpp/Ollama": None} == found | {
            "llama.cpp/Ollama": None
        }
        if wanted == REFUSED:
            with pytest.raises(ConfigError) as caught:
                vocabulary(tokenizer, config.vocab_size)
            assert str(caught.value) == f"export_gguf: {found['llama.cpp/Ollama'].words}"
