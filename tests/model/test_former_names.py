# SPDX-License-Identifier: Apache-2.0
"""Adapters made when models had other names inside (transformers up to 4.51) are loaded wholly, or refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from media_models import FAMILIES, TEXT
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForMultimodalLM

from llamafactory.extras.errors import ConfigError
from llamafactory.model.adapters import load_adapter, load_named_adapters, merge_adapter

# Today's name → the one in transformers 4.51, as its modeling files have it.
_QWEN = {"model.language_model.": "model.", "model.visual.": "visual."}
_NESTED = {
    "model.language_model.": "language_model.model.",
    "model.multi_modal_projector.": "multi_modal_projector.",
    "model.audio_tower.": "audio_tower.",
    "lm_head": "language_model.lm_head",
}
_CLIP = {"model.vision_tower.": "vision_tower.vision_model."}
FORMER = {
    "qwen2_vl": _QWEN,
    "qwen2_5_vl": _QWEN,
    "llava": _NESTED | _CLIP,
    "llava_next": _NESTED | _CLIP,
    "gemma3": _NESTED | _CLIP,
    "internvl": _NESTED | {"model.vision_tower.": "vision_tower."},
    "qwen2_audio": _NESTED,
}
LATER = {"model.vision_tower.": "model.vision_tower.vision_model."}  # transformers 4.52 to 4.57
# What each model has beside q_proj and v_proj: a layer of its tower, and its projector.
OTHERS = {
    "qwen2_vl": ["attn.qkv", "merger.mlp.0"],
    "qwen2_5_vl": ["attn.qkv", "merger.mlp.0"],
    "llava": ["fc1", "multi_modal_projector.linear_1"],
}
IDS = torch.tensor([[7, 8, 9, 10, 11]])


def make_model(family: str) -> Any:
    text = TEXT | {"vocab_size": 64, "eos_token_id": 1, "pad_token_id": 0}
    config = AutoConfig.for_model(family, **FAMILIES[family][3](text, lambda token: 60))
    torch.manual_seed(0)
    return AutoModelForMultimodalLM.from_config(config, dtype=torch.float32).eval()


def make_adapter(family: str, folder: Path, **settings: Any) -> tuple[dict, torch.Tensor]:
    """Write an adapter with today's names; give the weights that PEFT merges of it, and its logits."""
    tuned = get_peft_model(make_model(family), LoraConfig(r=4, **settings))
    for name, parameter in tuned.named_parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.2 if "lora" in name else 0.05)
    tuned.save_pretrained(folder)
    plain = PeftModel.from_pretrained(make_model(family), folder).eval()
    with torch.no_grad():
        logits = plain(input_ids=IDS).logits
    return plain.merge_and_unload().state_dict(), logits


def rename(name: str, table: dict[str, str]) -> str:
    for now, then in table.items():
        if name.startswith(now):
            return then + name.removeprefix(now)
    return name


def make_former(folder: Path, table: dict[str, str], **config: Any) -> Path:
    """Give an adapter's tensors their former names, and its configuration other values."""
    prefix, weights = "base_model.model.", folder / "adapter_model.safetensors"
    state = load_file(weights)
    renamed = {prefix + rename(name.removeprefix(prefix), table): value for name, value in state.items()}
    assert renamed.keys() != state.keys()
    save_file(renamed, weights, metadata={"format": "pt"})
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | config))
    return folder


def require_same(model: Any, expected: tuple[dict, torch.Tensor]) -> None:
    weights, logits = expected
    found = model.state_dict()
    assert found.keys() == weights.keys()
    for name, value in weights.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-6, msg=name)
    with torch.no_grad():
        torch.testing.assert_close(model(input_ids=IDS).logits, logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", OTHERS)
def test_language_tower_and_projector_of_an_older_adapter_are_merged(family, tmp_path):
    expected = make_adapter(family, tmp_path, target_modules=["q_proj", "v_proj", "lm_head", *OTHERS[family]])
    make_former(tmp_path, FORMER[family])
    require_same(merge_adapter(make_model(family), str(tmp_path)), expected)


@pytest.mark.parametrize(
    ("family", "targets"),
    [
        ("llava_next", ["q_proj", "lm_head", "linear_1"]),
        ("gemma3", ["q_proj", "fc1"]),
        ("internvl", ["q_proj", "lm_head", "linear_1"]),
        ("qwen2_audio", ["q_proj", "lm_head", "linear"]),
    ],
)
def test_neighbours_that_were_nested_anew(family, targets, tmp_path):
    expected = make_adapter(family, tmp_path, target_modules=targets)
    make_former(tmp_path, FORMER[family])
    require_same(merge_adapter(make_model(family), str(tmp_path)), expected)


# What the configuration of an older adapter says → the same in today's names.
_LAYERS = {"qwen2_vl": r"model\.layers\.\d+\.self_attn", "llava": r"language_model\.model\.layers\.\d+\.self_attn"}
_TOWERS = {"qwen2_vl": "visual", "llava": "vision_tower"}
_MEANT: dict[str, tuple[Callable[[str], Any], str]] = {
    "path": (lambda family: _LAYERS[family] + r"\.[qv]_proj", r"model\.language_model\..*\.[qv]_proj"),
    # as LLaMA-Factory wrote it for freeze_vision_tower
    "without the tower": (
        lambda family: rf"^(?!.*(?:{_TOWERS[family]}|projector)).*(?:q_proj|v_proj).*",
        r"model\.language_model\..*\.[qv]_proj",
    ),
    # as LLaMA-Factory wrote it for freeze_language_model: "model" has become part of the tower's name
    "without the language model": (
        lambda family: (
            "^(?!.*(?:patch_embed|model|lm_head)).*(?:qkv|mlp.0).*"
            if family == "qwen2_vl"
            else "^(?!.*language_model).*(?:fc1|linear_1).*"
        ),
        r"model\.(visual\.blocks\..*qkv|visual\.merger\.mlp\.0|vision_tower\..*fc1|multi_modal_projector\.linear_1)",
    ),
    "names": (
        lambda family: [
            _LAYERS[family].replace(r"\d+", "0").replace("\\", "") + ".q_proj",
            _LAYERS[family].replace(r"\d+", "1").replace("\\", "") + ".v_proj",
        ],
        r"model\.language_model\.layers\.(0\.self_attn\.q|1\.self_attn\.v)_proj",
    ),
}


@pytest.mark.parametrize("meant", _MEANT)
@pytest.mark.parametrize("family", _LAYERS)
def test_target_modules_are_matched_with_the_names_they_were_written_for(family, meant, tmp_path):
    write, today = _MEANT[meant]
    expected = make_adapter(family, tmp_path, target_modules=today)
    make_former(tmp_path, FORMER[family], target_modules=write(family))
    require_same(merge_adapter(make_model(family), str(tmp_path)), expected)


@pytest.mark.parametrize(
    ("family", "former", "today"),
    [
        ("qwen2_vl", ["visual.merger", "model.embed_tokens"], ["visual.merger", "embed_tokens"]),
        ("llava", ["multi_modal_projector", "language_model.lm_head"], ["multi_modal_projector", "lm_head"]),
    ],
)
def test_whole_modules_and_ranks_of_an_older_adapter(family, former, today, tmp_path):
    layer = "language_model.layers.1.self_attn.q_proj"
    own = {"rank_pattern": {layer: 8}, "alpha_pattern": {layer: 40}}
    expected = make_adapter(family, tmp_path, target_modules=["q_proj"], modules_to_save=today, **own)
    then = rename(f"model.{layer}", FORMER[family])
    own = {"rank_pattern": {then: 8}, "alpha_pattern": {then: 40}}
    make_former(tmp_path, FORMER[family], modules_to_save=former, **own)
    require_same(merge_adapter(make_model(family), str(tmp_path)), expected)


def test_names_between_the_former_and_todays(tmp_path):
    expected = make_adapter("llava", tmp_path, target_modules=["q_proj", "fc1"])
    make_former(
        tmp_path, LATER, target_modules=r"model\.(language_model\..*q_proj|vision_tower\.vision_model\..*(q_proj|fc1))"
    )
    require_same(merge_adapter(make_model("llava"), str(tmp_path)), expected)


@pytest.mark.parametrize("family", OTHERS)
def test_side_by_side_with_one_of_todays_names(family, tmp_path):
    settings = {"target_modules": ["q_proj", *OTHERS[family]]}
    expected = make_adapter(family, tmp_path / "today", **settings)
    make_adapter(family, tmp_path / "former", **settings)
    make_former(tmp_path / "former", FORMER[family])
    for order in (("today", "former"), ("former", "today")):
        model = load_named_adapters(make_model(family), {name: str(tmp_path / name) for name in order})
        for name in order:
            model.set_adapter(name)
            with torch.no_grad():
                torch.testing.assert_close(model(input_ids=IDS).logits, expected[1], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("family", "part"),
    [
        ("qwen2_vl", "layers.1"),
        ("qwen2_vl", "merger"),
        ("qwen2_5_vl", "blocks"),
        ("llava", "projector"),
        ("llava", "vision_tower"),
    ],
)
def test_a_part_of_an_older_adapter_is_refused(family, part, tmp_path):
    make_adapter(family, tmp_path, target_modules=["q_proj", *OTHERS[family]])
    make_former(tmp_path, FORMER[family])
    file = tmp_path / "adapter_model.safetensors"
    state = load_file(file)
    kept = {name: value for name, value in state.items() if part not in name}
    save_file(kept, file, metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=f"{len(state) - len(kept)} tensors missing") as caught:
        load_adapter(make_model(family), str(tmp_path), trainable=False)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("family", OTHERS)
def test_names_that_no_version_had_are_refused(family, tmp_path):
    make_adapter(family, tmp_path, target_modules=["q_proj", *OTHERS[family]])
    make_former(tmp_path, {"model.visual.": "eyes.", "model.multi_modal_projector.": "bridge."})
    with pytest.raises(ConfigError, match="without a place"):
        load_adapter(make_model(family), str(tmp_path), trainable=True)
