# SPDX-License-Identifier: Apache-2.0
"""What is loaded is loaded wholly, or refused with the names of what is missing or left over."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from llamafactory.extras.errors import ConfigError
from llamafactory.model import load_model, load_tokenizer
from llamafactory.model.adapters import load_adapter, load_named_adapters
from llamafactory.model.heads import REWARD
from llamafactory.model.reference import make_reference


def edit(folder: Path, change: Any, name: str = "adapter_model.safetensors") -> Path:
    state = load_file(folder / name)
    save_file(change(state), folder / name, metadata={"format": "pt"})
    return folder


@pytest.fixture
def adapter(tiny_llama: Path, tmp_path: Path) -> Path:
    model = AutoModelForCausalLM.from_pretrained(tiny_llama)
    tuned = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj"]))
    tuned.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def half(state: dict) -> dict:
    return {name: state[name] for name in sorted(state)[::2]}


def renamed(state: dict) -> dict:
    return {name.replace(".layers.", ".blocks."): value for name, value in state.items()}


def deeper(state: dict) -> dict:
    return state | {name.replace("layers.1", "layers.3"): value.clone() for name, value in state.items()}


def integers(state: dict) -> dict:
    return {name: value.to(torch.int8) for name, value in state.items()}


def infinite(state: dict) -> dict:
    return {name: torch.full_like(value, float("inf")) for name, value in state.items()}


BROKEN = {half: "missing", renamed: "without a place", deeper: "layers.3", integers: "int8", infinite: "infinity"}


@pytest.mark.parametrize("change", BROKEN, ids=lambda change: change.__name__)
@pytest.mark.parametrize("named", [False, True], ids=["adapter", "lora_modules"])
def test_an_adapter_that_is_not_this_models_is_refused(tiny_llama, adapter, change, named):
    edit(adapter, change)
    model = AutoModelForCausalLM.from_pretrained(tiny_llama)
    with pytest.raises(ConfigError, match=BROKEN[change]) as caught:
        if named:
            load_named_adapters(model, {"one": str(adapter)})
        else:
            load_adapter(model, str(adapter), trainable=True)
    assert "\n" not in str(caught.value)
    assert str(adapter) in str(caught.value)


@pytest.mark.parametrize("kind", ["IA3", "ADALORA", "NONSENSE", None])
def test_an_adapter_of_another_type_than_its_tensors_is_refused(tiny_llama, adapter, kind):
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"peft_type": kind}))
    with pytest.raises(ConfigError):
        load_adapter(AutoModelForCausalLM.from_pretrained(tiny_llama), str(adapter), trainable=False)


def test_whole_adapters_load(tiny_llama, adapter):
    model = AutoModelForCausalLM.from_pretrained(tiny_llama)
    load_named_adapters(model, {"one": str(adapter), "two": str(adapter)})


NORM = "model.layers.1.input_layernorm.weight"
BASES = {
    "missing": (lambda state: {name: value for name, value in state.items() if name != NORM}, "missing"),
    "left over": (lambda state: state | {NORM.replace("1", "7"): state[NORM].clone()}, "without a place"),
    "shape": (lambda state: state | {NORM: torch.ones(3)}, "another shape"),
    "NaN": (lambda state: state | {NORM: torch.full_like(state[NORM], float("nan"))}, "NaN"),
    "integers": (lambda state: state | {NORM: state[NORM].to(torch.int8)}, "of type I8"),
}


@pytest.mark.parametrize("fault", BASES)
@pytest.mark.parametrize("head", [None, REWARD], ids=("language", "reward"))
def test_a_base_that_is_not_whole_is_refused(tiny_llama, infer_args, train_args, tmp_path, fault, head):
    change, said = BASES[fault]
    folder = edit(shutil.copytree(tiny_llama, tmp_path / "base"), change, "model.safetensors")
    for args, trainable in ((infer_args(folder), False), (train_args(folder), True)):
        with pytest.raises(ConfigError, match=said) as caught:
            load_model(load_tokenizer(args.model), args, trainable=trainable, head=head)
        assert "layers." in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_reward_model_without_its_score_is_refused(tiny_llama, infer_args, tmp_path):
    folder = shutil.copytree(tiny_llama, tmp_path / "base")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["LlamaForSequenceClassification"]}))
    args = infer_args(folder)
    with pytest.raises(ConfigError, match=r"score\.weight"):
        load_model(load_tokenizer(args.model), args, trainable=False, head=REWARD)


def test_a_reference_with_another_vocabulary_is_refused(tiny_llama, train_args, tmp_path):
    other = shutil.copytree(tiny_llama, tmp_path / "other")
    file = other / "tokenizer.json"
    values = json.loads(file.read_text())
    vocab = values["model"]["vocab"]
    vocab["a"], vocab["b"] = vocab["b"], vocab["a"]
    file.write_text(json.dumps(values))
    args = train_args(tiny_llama, ref_model=str(other), stage="dpo")
    tokenizer = load_tokenizer(args.model)
    policy = load_model(tokenizer, args)
    with pytest.raises(ConfigError, match="another vocabulary"):
        make_reference(policy, tokenizer, args)
