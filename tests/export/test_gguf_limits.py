# SPDX-License-Identifier: Apache-2.0
"""What llama.cpp makes of every key of a configuration; ``make test-llamacpp`` compares the logits."""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import logging
import re
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, LlamaConfig

from llamafactory.export.export import run_export
from llamafactory.export.gguf.limits import FIELDS, UNUSED, llama_cpp_limits
from llamafactory.extras.errors import ConfigError

from .families import SHAPE, tiny, tiny_gguf

SLIDE, FULL = "sliding_attention", "full_attention"
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 64}
# A model's code reads these, but only to train, or for rows that are padded.
READ_FOR_OTHER_ENDS = {"attention_dropout", "resid_pdrop", "pad_token_id", "original_max_position_embeddings"}


def config(family: str, **changes: Any) -> Any:
    return AutoConfig.for_model(family, **{**SHAPE, "pad_token_id": 0, **changes})


def names_read(family: str) -> set[str]:
    """Return the keys of its configuration that transformers' code of a family reads."""
    module = family.removesuffix("_text")
    spec = importlib.util.find_spec(f"transformers.models.{module}.modeling_{module}")
    assert spec is not None and spec.origin is not None
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    names = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in ("config", "self.config")
    }
    names |= {
        ast.literal_eval(node.args[1])
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) == "getattr"
        and ast.unparse(node.args[0]) in ("config", "self.config")
    }
    # The file of Gemma 3 holds the model with images too.
    others = {"image_token_id", "mm_tokens_per_image", "text_config", "vision_config", "get_text_config"}
    return {name for name in names if not name.startswith("_")} - others


@pytest.mark.parametrize("family", FIELDS)
def test_every_key_of_a_configuration_has_its_rule(family: str) -> None:
    declared = {field.name for field in dataclasses.fields(config(family))}
    assert declared - FIELDS[family].keys() == set()
    assert names_read(family) - FIELDS[family].keys() == set()
    assert FIELDS[family].keys() - declared - names_read(family) == set()
    unused = {name for name, rule in FIELDS[family].items() if rule is UNUSED}
    assert unused & names_read(family) <= READ_FOR_OTHER_ENDS


def test_a_key_of_a_later_release_is_refused() -> None:
    @dataclasses.dataclass(repr=False)
    class Later(LlamaConfig):
        attention_sinks: int = 4

    assert llama_cpp_limits(Later(**SHAPE)).refusal == (
        "attention_sinks = 4: nobody knows what llama.cpp makes of this key"
    )


@pytest.mark.parametrize("family", FIELDS)
def test_the_plain_model_is_written(family: str) -> None:
    limits = llama_cpp_limits(config(family, **({"sliding_window": None} if family == "mistral" else {})))
    assert (limits.refusal, limits.context, limits.notes) == (None, 256, ())


@pytest.mark.parametrize(
    ("family", "changes", "named"),
    [
        ("llama", {"hidden_act": "gelu"}, "hidden_act = 'gelu': llama.cpp computes with 'silu' or 'swish'"),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}, "type 'dynamic'"),
        ("llama", {"rope_parameters": {**YARN, "mrope_section": [1, 1]}}, "llama.cpp makes of mrope_section"),
        ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor must be 1.0"),
        ("qwen2", {"head_dim": 32}, "head_dim = 32: llama.cpp computes with 16"),
        ("qwen2", {"rope_parameters": {**YARN, "truncate": False}}, "truncate true"),
        ("qwen3", {"rope_parameters": {**YARN, "beta_fast": 8.0}}, "beta_fast 32"),
        ("qwen3", {"attention_bias": True}, "attention_bias = True: llama.cpp computes with False"),
        ("qwen3", {"layer_types": [FULL, "chunked_attention"]}, "layer_types = "),
        ("gemma2", {"tie_word_embeddings": False}, "tie_word_embeddings = False: llama.cpp computes with True"),
        ("gemma2", {"attn_logit_softcapping": None}, "attn_logit_softcapping = None: llama.cpp cannot leave it out"),
        ("gemma2", {"final_logit_softcapping": None}, "final_logit_softcapping = None: llama.cpp cannot leave it"),
        ("gemma2", {"hidden_activation": "gelu"}, "hidden_activation = 'gelu': llama.cpp computes with"),
        ("gemma2", {"use_bidirectional_attention": True}, "use_bidirectional_attention = True: llama.cpp"),
        ("gemma3_text", {"layer_types": [FULL, SLIDE]}, "layer_types = .*each sixth layer"),
        ("gemma3_text", {"attn_logit_softcapping": 5.0}, "attn_logit_softcapping = 5.0: llama.cpp computes with None"),
        ("gemma3_text", {"attention_bias": True}, "attention_bias = True"),
        ("phi3", {"partial_rotary_factor": 0.35}, "an even number of 16 in each head"),
        ("qwen3_moe", {"norm_topk_prob": False}, "model type 'qwen3_moe' cannot be written"),
    ],
)
def test_what_llama_cpp_would_not_obey_is_refused(family: str, changes: dict[str, Any], named: str) -> None:
    refusal = llama_cpp_limits(config(family, **changes)).refusal
    assert refusal is not None
    assert re.search(named, refusal)
    assert "\n" not in refusal


@pytest.mark.parametrize(
    ("family", "changes", "context"),
    [
        ("mistral", {"sliding_window": 32}, 32),
        ("mistral", {"sliding_window": 300}, 256),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 32, "max_window_layers": 1}, 32),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 32, "max_window_layers": 2}, 256),
        ("qwen2", {"use_sliding_window": False, "sliding_window": 32, "max_window_layers": 0}, 256),
        ("qwen3", {"use_sliding_window": True, "sliding_window": 32, "layer_types": [SLIDE, FULL]}, 32),
        ("gemma2", {"sliding_window": 32}, 256),
        ("gemma2", {"sliding_window": 32, "layer_types": [SLIDE, SLIDE]}, 32),
        ("gemma3_text", {"sliding_window": 32}, 256),
        ("phi3", {"sliding_window": 32}, 32),
    ],
)
def test_the_context_ends_at_a_window_that_does_not_slide(family: str, changes: dict[str, Any], context: int) -> None:
    limits = llama_cpp_limits(config(family, **changes))
    assert (limits.refusal, limits.context) == (None, context)
    assert [note.split(":")[0] for note in limits.notes] == ["sliding_window = 32"] * (context == 32)


def test_a_window_caps_file_and_modelfile(
    tiny_llama: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("llamafactory"), "propagate", True)
    _, context = tiny_gguf("mistral", {"sliding_window": 32}, tiny_llama, tmp_path / "base", "f32")
    assert context == 32
    out = tmp_path / "out"
    run_export(
        {
            "model_name_or_path": str(tmp_path / "base"),
            "template": "chatml",
            "export_dir": str(out),
            "export_gguf": "f32",
        }
    )
    assert "PARAMETER num_ctx 32\n" in (out / "Modelfile").read_text()
    assert "export_gguf: sliding_window = 32: llama.cpp does not slide it" in caplog.text


def test_an_output_layer_of_its_own_keeps_its_flag_and_gemma_2_says_where_it_runs(
    tiny_llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = AutoTokenizer.from_pretrained(tiny_llama)
    base = tiny(config("gemma2", head_dim=16, tie_word_embeddings=False), words, tmp_path / "base")
    keys = {"model_name_or_path": str(base), "template": "chatml", "export_dir": str(tmp_path / "out")}
    with pytest.raises(ConfigError, match=r"^export_gguf: tie_word_embeddings = False: llama.cpp computes with True"):
        run_export({**keys, "export_gguf": "f32"})
    assert not (tmp_path / "out").exists()
    run_export(keys)
    printed = capsys.readouterr().out
    for reader in ("vLLM", "mlx-lm"):
        assert re.search(rf"{reader} .* refused: its Gemma 2 has no place for an output layer of its own", printed)
    assert re.search(r"llama.cpp/Ollama .* refused: tie_word_embeddings = False: llama.cpp computes with True", printed)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert not model.config.tie_word_embeddings
    assert not model.lm_head.weight.equal(model.model.embed_tokens.weight)


def test_the_documentation_has_every_restriction() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "export.md").read_text(encoding="utf-8")
    section = text.split("### What llama.cpp obeys")[1].split("\n## ")[0]
    for family, rules in FIELDS.items():
        for name, rule in rules.items():
            if rule.fate not in ("written", "in the weights", UNUSED.fate):
                assert f"`{name}`" in section, (family, name)
                assert rule.fate in section, (family, name, rule.fate)
