# SPDX-License-Identifier: Apache-2.0
"""A quantized base that stays in a file: bit for bit the run over the same base in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from llamafactory.export.export import run_export
from llamafactory.extras.errors import ConfigError
from llamafactory.hparams import get_infer_args, get_train_args
from llamafactory.model import load_model, load_tokenizer
from llamafactory.model.quantizers.layers import quantized_layers
from llamafactory.model.streaming import WeightFile

from .conftest import Keys
from .running import curve, train, weights_of

EVALUATED = {
    "save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": 2, "val_size": 8,
    "lora_dropout": 0.1, "load_best_model_at_end": True, "lr_scheduler_type": "constant",
}  # fmt: skip
IDS = torch.arange(3, 67).view(2, 32)


@torch.inference_mode()
def logits(model: Any) -> torch.Tensor:
    return model.eval()(input_ids=IDS).logits.float()


@pytest.mark.slow
def test_a_run_is_the_run_over_a_base_in_memory(keys: Keys, tiny_llama: Path, tmp_path: Path) -> None:
    """Evaluated and resumed on the way; then served, and exported, both ways."""
    given = keys(**EVALUATED, quantization_bit=4, activation_checkpointing=True, offload_folder=str(tmp_path / "file"))
    whole = train(given | {"max_steps": 4, "output_dir": str(tmp_path / "whole")})
    streamed = given | {"stream_layers": True}
    train(streamed | {"max_steps": 2})
    run = train(streamed | {"max_steps": 4})
    assert curve(run) == curve(whole) and len(curve(run)) == 4
    theirs = weights_of(whole)
    assert all(torch.equal(weight, theirs[name]) for name, weight in weights_of(run).items())
    assert len(list((tmp_path / "file").iterdir())) == 1, "quantized once, nothing temporary left"

    keep = {name: streamed[name] for name in ("model_name_or_path", "template", "quantization_bit", "stream_layers")}
    keep |= {"adapter_name_or_path": str(run), "offload_folder": str(tmp_path / "file"), "infer_dtype": "float32"}
    served = []
    for more in ({}, {"stream_layers": False}):
        args = get_infer_args(keep | more)
        served.append(logits(load_model(load_tokenizer(args.model), args, trainable=False)))
    assert torch.equal(*served)
    for name, more in (("full", {}), ("dense", {"export_dequantized": True})):
        run_export({**keep, **more, "export_dir": str(tmp_path / name)})
    exported = logits(AutoModelForCausalLM.from_pretrained(tmp_path / "dense"))
    assert float((exported - served[0]).abs().max() / served[0].abs().max()) < 1e-4
    assert float((logits(AutoModelForCausalLM.from_pretrained(tmp_path / "full")) - exported).abs().max()) > 1e-3


@pytest.mark.parametrize(
    "more",
    [
        {"quantization_bit": 4, "quantization_type": "fp4", "double_quantization": False},
        {"quantization_bit": 8},
        {"quantization_bit": 4, "bf16": True},
    ],
    ids=str,
)
def test_weights_and_gradients_are_those_of_the_packages_own_layers(
    keys: Keys, tmp_path: Path, more: dict[str, Any]
) -> None:
    found = []
    for streams in (False, True):
        args = get_train_args(keys(**more, stream_layers=streams, offload_folder=str(tmp_path / "file")))
        torch.manual_seed(0)
        model: Any = load_model(load_tokenizer(args.model), args)
        dense = {name: layer.dense_weight(torch.float32).clone() for name, layer in quantized_layers(model)}
        model(input_ids=IDS, labels=IDS).loss.backward()
        gradients = {name: one.grad for name, one in model.named_parameters() if one.grad is not None}
        whole = {name: one for name, one in model.named_parameters() if "embed" in name or "norm" in name}
        found.append(dense | gradients | whole)
        assert all(hasattr(layer, "file") == streams for _, layer in quantized_layers(model))
    assert found[0].keys() == found[1].keys() and len(found[0]) > 40
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
    assert {one.dtype for one in found[1].values()} == {one.dtype for one in found[0].values()}


def test_the_file_is_one_of_safetensors(keys: Keys, tmp_path: Path) -> None:
    args = get_train_args(keys(quantization_bit=4, stream_layers=True, offload_folder=str(tmp_path)))
    model: Any = load_model(load_tokenizer(args.model), args)
    [path] = tmp_path.glob("*.safetensors")
    theirs, ours = load_file(path), WeightFile(path)
    names = {name.partition(":")[0] for name in theirs}
    assert len(names) == 14 and all(name.startswith("model.layers.") for name in names)
    for name in names:
        parts = ours.read(name)
        assert all(torch.equal(tensor, theirs[f"{name}:{part}"]) for part, tensor in parts.items())
        ours.let_go(name)
        assert all(torch.equal(tensor, theirs[f"{name}:{part}"]) for part, tensor in parts.items()), "read once more"
    held = sum(one.untyped_storage().nbytes() for name, one in model.named_parameters() if "base_layer.weight" in name)
    assert held == 14 * 4, "a number for each layer, in the place of its weight"


def test_other_weights_and_settings_are_other_files(keys: Keys, tiny_llama: Path, tmp_path: Path) -> None:
    """A file that was cut off is made anew; one of another rounding, or of other weights, is another file."""
    import shutil

    base = tmp_path / "base"
    shutil.copytree(tiny_llama, base)
    given = {"quantization_bit": 4, "stream_layers": True, "offload_folder": str(tmp_path / "files")}

    def files(**more: Any) -> set[Path]:
        args = get_train_args(keys(**given, model_name_or_path=str(base)) | more)
        load_model(load_tokenizer(args.model), args)
        return set((tmp_path / "files").iterdir())

    [path] = files()
    content = path.read_bytes()
    path.write_bytes(content[:-100])
    assert files() == {path} and path.read_bytes() == content
    assert len(files(double_quantization=False)) == 2
    weights = base / "model.safetensors"
    weights.write_bytes(weights.read_bytes())
    assert len(files()) == 3


BASE = {"model_name_or_path": "org/tiny", "dataset": "identity", "stream_layers": True}


@pytest.mark.parametrize(
    ("more", "line"),
    [
        ({}, "stream_layers: needs quantization_bit, which is not given"),
        (
            {"quantization_bit": 4, "quantization_method": "hqq"},
            "stream_layers: weights of hqq cannot stay in a file; use quantization_method bnb",
        ),
        ({"quantization_bit": 4, "use_dora": True}, "stream_layers: not with use_dora, which reads whole weights"),
    ],
)
def test_wrong_combinations(more: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        get_train_args({**BASE, **more})
    assert line in str(caught.value)


def test_a_file_in_the_place_of_the_folder_is_one_line(keys: Keys, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    args = get_train_args(keys(quantization_bit=4, stream_layers=True, offload_folder=str(tmp_path / "file")))
    with pytest.raises(ConfigError, match=r"file: File exists; it is in the way of what is to be made there"):
        load_model(load_tokenizer(args.model), args)


def test_a_layer_in_a_file_is_not_trained_whole(keys: Keys, tmp_path: Path) -> None:
    given = keys(quantization_bit=4, stream_layers=True, offload_folder=str(tmp_path), additional_target="down_proj")
    args = get_train_args(given)
    with pytest.raises(ConfigError, match="additional_target: down_proj holds weights in few bits"):
        load_model(load_tokenizer(args.model), args)
