# SPDX-License-Identifier: Apache-2.0
"""A saved folder says the same in the words of transformers 4: read by those words alone, it is the same model."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoTokenizer
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from llamafactory.model.older_readers import add_older_names

FAMILIES = [
    "arcee", "bitnet", "cohere", "cohere2", "deepseek_v2", "deepseek_v3", "diffllama", "ernie4_5", "ernie4_5_moe",
    "exaone4", "falcon_h1", "gemma", "gemma2", "gemma3_text", "gemma3n_text", "glm", "glm4", "glm4_moe",
    "gpt_neox", "gpt_oss", "granite", "granitemoe", "granitemoehybrid", "helium", "jetmoe", "lfm2", "llama",
    "minimax", "ministral", "mistral", "mixtral", "modernbert-decoder", "moshi", "nemotron", "olmo", "olmo2",
    "olmo3", "olmoe", "persimmon", "phi", "phi3", "phimoe", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe",
    "qwen3_next", "seed_oss", "smollm3", "stablelm", "starcoder2", "vaultgemma", "zamba2", "gemma3", "llava",
    "mistral3", "qwen2_vl", "qwen2_5_vl", "llama4", "mllama", "pixtral", "aya_vision", "internvl"
]  # fmt: skip
SCALING: dict[str, Any] = {
    "linear": {"rope_type": "linear", "factor": 4.0},
    "llama3": {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 512,
    },
    "yarn": {"rope_type": "yarn", "factor": 2.0, "beta_fast": 24.0, "original_max_position_embeddings": 512},
}  # fmt: skip
NEW = ("rope_parameters", "dtype")


def _changed(text: Any, scaling: dict[str, Any]) -> None:
    """Give every rotary embedding of a configuration a base that is nobody's default, and a scaling."""
    parameters = text.rope_parameters or {}
    if "rope_theta" in parameters:
        text.rope_parameters = {**parameters, "rope_theta": 543210.0, **scaling}
    for number, kind in enumerate(("full_attention", "sliding_attention")):
        if kind in parameters:
            extra = scaling if kind == "full_attention" else {}
            # Olmo 3 has one base under the older names, and transformers 5 reads it for its full layers only
            base = parameters[kind]["rope_theta"] if text.model_type == "olmo3" else 54321.0 + number
            text.rope_parameters[kind] = {**parameters[kind], "rope_theta": base, **extra}


def _without(names: tuple[str, ...], value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {name: _without(names, held) for name, held in value.items() if name not in names}


def _read(folder: Path) -> Any:
    return AutoConfig.from_pretrained(folder).get_text_config()


def _rope(text: Any) -> Any:
    return _without(("type",), text.rope_parameters)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_older_names_alone_give_the_same_configuration(family: str, tmp_path: Path) -> None:
    config = CONFIG_MAPPING[family]()
    _changed(config.get_text_config(), {})
    config.dtype = "bfloat16"
    config.save_pretrained(tmp_path)
    expected = _read(tmp_path)
    add_older_names(tmp_path)
    both = _read(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(_without(NEW, content)))
    older = _read(tmp_path)
    assert _rope(both) == _rope(older) == _rope(expected)
    assert AutoConfig.from_pretrained(tmp_path).dtype == torch.bfloat16


@pytest.mark.parametrize("method", SCALING)
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "mistral", "gemma3_text", "olmo3", "glm4", "llava"])
def test_a_scaling_is_said_in_the_older_names(family: str, method: str, tmp_path: Path) -> None:
    config = CONFIG_MAPPING[family]()
    _changed(config.get_text_config(), SCALING[method])
    config.save_pretrained(tmp_path)
    expected = _rope(_read(tmp_path))
    add_older_names(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    held = content.get("text_config", content)
    assert held["rope_scaling"]["type"] == method and held["rope_scaling"]["factor"] == SCALING[method]["factor"]
    assert _rope(_read(tmp_path)) == expected
    (tmp_path / "config.json").write_text(json.dumps(_without(NEW, content)))
    assert _rope(_read(tmp_path)) == expected


@pytest.mark.parametrize(
    ("family", "scaling", "names"),
    [
        ("phi3", {"short_factor": [1.0] * 48, "long_factor": [2.0] * 48}, {"type", "short_factor", "long_factor"}),
        ("olmo2", {"factor": 4.0}, {"type", "factor"}),
    ],
)
def test_classes_that_refuse_further_keys_get_none(
    family: str, scaling: dict[str, Any], names: set[str], tmp_path: Path
) -> None:
    config = CONFIG_MAPPING[family]()
    config.rope_parameters = {
        **config.rope_parameters,
        "rope_type": "longrope" if family == "phi3" else "linear",
        **scaling,
    }
    config.rope_parameters["original_max_position_embeddings"] = 2048
    config.save_pretrained(tmp_path)
    add_older_names(tmp_path)
    assert set(json.loads((tmp_path / "config.json").read_text())["rope_scaling"]) == names


def test_the_tokenizer_is_one_that_transformers_4_knows(tiny_llama: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    tokenizer.add_special_tokens({"extra_special_tokens": ["<|mine|>"]}, replace_extra_special_tokens=False)
    tokenizer.save_pretrained(tmp_path)
    add_older_names(tmp_path)
    content = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert content["tokenizer_class"] == "PreTrainedTokenizerFast" and "extra_special_tokens" not in content
    assert "<|mine|>" in content["additional_special_tokens"]
    again = AutoTokenizer.from_pretrained(tmp_path)
    text = "a small <|mine|> fox"
    assert again(text).input_ids == tokenizer(text).input_ids
    assert again.decode(again(text).input_ids, skip_special_tokens=True) == tokenizer.decode(
        tokenizer(text).input_ids, skip_special_tokens=True
    )
    assert set(again.all_special_ids) == set(tokenizer.all_special_ids)
