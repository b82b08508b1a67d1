# SPDX-License-Identifier: Apache-2.0
"""GGUF files against the other reader of GGUF at hand: transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGUFReader
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from llamafactory.export.export import run_export
from llamafactory.export.gguf.vocabulary import vocabulary
from llamafactory.export.gguf.writer import TYPES
from llamafactory.extras.errors import ConfigError
from llamafactory.hparams.model_args import ModelArguments
from llamafactory.model.paths import resolve_model_path
from llamafactory.model.pre_tokenizers import PRE_TOKENIZERS, name_of, pre_tokenizer, steps_of

from .families import FAMILIES, IDS, tiny


def export(base: Path, out: Path, kinds: str) -> Path:
    run_export({"model_name_or_path": str(base), "template": "chatml", "export_dir": str(out), "export_gguf": kinds})
    return out


@torch.inference_mode()
def logits(model: Any) -> torch.Tensor:
    return model.eval()(IDS).logits


def reload(out: Path, name: str) -> Any:
    return AutoModelForCausalLM.from_pretrained(
        out, gguf_file=name, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )


@pytest.mark.parametrize("name", FAMILIES)
def test_transformers_reads_the_same_model(name: str, tiny_llama: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    out = export(tiny(FAMILIES[name], tokenizer, tmp_path / "base"), tmp_path / "out", "f32")
    ours = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    theirs = reload(out, "out-F32.gguf")
    state = theirs.state_dict()
    for key, weight in ours.state_dict().items():
        torch.testing.assert_close(state[key], weight, atol=1e-6, rtol=1e-6, msg=lambda text, key=key: f"{key}: {text}")
    if name not in ("gemma2", "gemma3", "llama3"):  # of these transformers does not read every key of the positions
        torch.testing.assert_close(logits(theirs), logits(ours), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", [kind for kind in TYPES if kind != "f32"])
def test_every_type_is_written_within_its_rounding(kind: str, tiny_llama: Path, tmp_path: Path) -> None:
    out = export(tiny_llama, tmp_path / "out", kind)
    ours = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32).state_dict()
    theirs = reload(out, f"out-{kind.upper()}.gguf").state_dict()
    bits = {"f16": 11, "bf16": 8, "q8_0": 7, "q5_0": 4, "q5_1": 4, "q4_0": 3, "q4_1": 3, "tq1_0": 0, "tq2_0": 0}[kind]
    for key, weight in ours.items():
        step = weight.abs().max() * 2.0**-bits
        assert float((theirs[key] - weight).abs().max()) <= 1.1 * float(step), key
    assert "FROM ./out-" in (out / "Modelfile").read_text()


@pytest.mark.slow
def test_tokenizer_survives(smollm2: Path, tmp_path: Path) -> None:
    out = export(smollm2, tmp_path / "out", "q8_0")
    ours = AutoTokenizer.from_pretrained(out)
    theirs = AutoTokenizer.from_pretrained(out, gguf_file="out-Q8_0.gguf")
    for text in ("Hello  world 1234!\n\n  x", "Größe 你好 🙂 don't", "<|im_start|>user\nhi<|im_end|>"):
        assert theirs(text).input_ids == ours(text).input_ids
    fields = GGUFReader(out / "out-Q8_0.gguf").fields
    assert ours.convert_ids_to_tokens(fields["tokenizer.ggml.eos_token_id"].contents()) == "<|im_end|>"
    assert fields["tokenizer.chat_template"].contents() == ours.chat_template
    assert fields["tokenizer.ggml.pre"].contents() == "smollm"


def test_a_written_file_is_a_model_for_us(tiny_llama: Path, tmp_path: Path) -> None:
    """Beside the files of its export, which transformers mixes into what it reads of a GGUF file."""
    out = export(tiny_llama, tmp_path / "out", "f32")
    folder = resolve_model_path(str(out / "out-F32.gguf"), ModelArguments(cache_dir=str(tmp_path / "cache")))
    ours, again = (AutoTokenizer.from_pretrained(path) for path in (out, folder))
    assert again.special_tokens_map == ours.special_tokens_map and again.eos_token
    assert again.chat_template == ours.chat_template
    models = [AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32) for path in (out, folder)]
    assert torch.allclose(logits(models[0]), logits(models[1]), atol=2e-2)


def test_unknown_types_models_and_tokenizers_are_named(tiny_llama: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="export_gguf: unknown type 'q9'; known: f32, f16"):
        export(tiny_llama, tmp_path / "a", "f16,q9")
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    from tokenizers import pre_tokenizers

    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    with pytest.raises(ConfigError, match="neither byte-level BPE nor SentencePiece"):
        vocabulary(tokenizer, 512)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("name", PRE_TOKENIZERS)
def test_a_name_and_its_splitting_are_one(name: str) -> None:
    splitting = pre_tokenizer(name)
    assert splitting is not None
    steps = steps_of(json.loads(splitting.__getstate__()))
    assert name_of(steps, whole_words=True) == name


def test_gguf_models_split_text_as_their_file_says(smollm2: Path) -> None:
    """SmolLM2 was trained on single digits; transformers reads its GGUF as if it were GPT-2."""
    backend = AutoTokenizer.from_pretrained(smollm2).backend_tokenizer
    assert [word for word, _ in backend.pre_tokenizer.pre_tokenize_str("in 1234")] == ["in", "Ġ", "1", "2", "3", "4"]
