# SPDX-License-Identifier: Apache-2.0
"""Training with rounded weights: the rounding is export's, the gradient passes straight through, and an export in few
bits gives the logits that the model had in training."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from llamafactory.export.export import run_export
from llamafactory.export.quantization.nearest import quantize
from llamafactory.extras.errors import ConfigError
from llamafactory.hparams import get_train_args
from llamafactory.model import load_model, load_tokenizer
from llamafactory.model.fake_quantization import RoundedLinear, RoundedLora, Rounding
from llamafactory.model.grid import IntGrid

from .conftest import Keys
from .running import assert_bit_equal, log_of, train
from .test_quantized_runs import IDS, _Keep, _Kill, _Killed, distance, logits

QAT = {"qat": "int4", "qat_group_size": 32}


def by_hand(weight: Tensor, bits: int, group: int) -> np.ndarray:
    """Each group by itself: the scale reaches the largest weight, codes are the nearest integers.

    In float32, for the largest weight of a group lies half way between two codes.
    """
    rows = weight.numpy()
    found = np.zeros_like(rows)
    for row in range(rows.shape[0]):
        for start in range(0, rows.shape[1], group):
            part = rows[row, start : start + group]
            step = np.max(np.abs(part)) / np.float32((2**bits - 1) / 2)
            codes = np.clip(np.rint(part / step), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
            found[row, start : start + group] = codes * step
    return found


@pytest.mark.parametrize("bits", [4, 8])
def test_the_rounding_is_a_grid_of_integers(bits: int) -> None:
    weight = torch.randn(8, 64, generator=torch.Generator().manual_seed(1))
    found = Rounding(bits, 32, torch.float32).values(weight)
    np.testing.assert_allclose(found.numpy(), by_hand(weight, bits, 32), rtol=0, atol=1e-6)
    for dtype in (torch.float32, torch.bfloat16):
        narrow = weight.to(dtype).float()
        exported = quantize(narrow, torch.eye(64), IntGrid(bits, 32, search=False), dtype).values()
        assert torch.equal(Rounding(bits, 32, dtype).values(weight), exported)
    assert torch.equal(Rounding(bits, 32, torch.float32).values(torch.zeros(2, 64)), torch.zeros(2, 64))


def test_a_layer_that_is_trained_whole_is_rounded_too(keys: Keys) -> None:
    """Over a model in bfloat16 it computes in that, with what export rounds it to."""
    args = get_train_args(keys(**QAT, additional_target="o_proj", bf16=True))
    model: Any = load_model(load_tokenizer(args.model), args)
    (layer, *_) = (module for module in model.modules() if isinstance(module, RoundedLinear))
    x = torch.randn(5, layer.in_features, dtype=torch.bfloat16)
    wanted = x @ torch.tensor(by_hand(layer.weight.detach(), 4, 32)).bfloat16().t()
    torch.testing.assert_close(layer(x), wanted, rtol=0, atol=0.01)


def test_gradients_pass_straight_through(keys: Keys, tiny_llama: Path) -> None:
    """Those of a LoRA model whose weights are ``W + (Q(W) - W)`` with the bracket taken for a constant."""
    args = get_train_args(keys(**QAT))
    ours: Any = load_model(load_tokenizer(args.model), args)
    layers = [module for module in ours.modules() if isinstance(module, RoundedLora)]
    assert len(layers) == 2 * 7
    layer = layers[0]
    with torch.no_grad():
        layer.lora_B["default"].weight.normal_(std=0.1)
    x = torch.randn(5, layer.in_features, requires_grad=True)
    up, down = layer.lora_B["default"].weight, layer.lora_A["default"].weight
    merged = layer.base_layer.weight + layer.scaling["default"] * (up @ down)
    rounded = torch.tensor(by_hand(merged.detach(), 4, 32)).float()
    wanted = x @ (merged + (rounded - merged).detach()).t()
    found = layer(x)
    assert (found - wanted).abs().max() < 1e-5 * wanted.abs().max()
    outer = torch.randn_like(wanted)
    for mine, theirs in zip(
        torch.autograd.grad((found * outer).sum(), (up, down, x)),
        torch.autograd.grad((wanted * outer).sum(), (up, down, x)),
        strict=True,
    ):
        assert (mine - theirs).abs().max() < 1e-5 * theirs.abs().max()


def narrowed(source: Path, folder: Path, dtype: torch.dtype) -> Path:
    """The same model in a file of another number format."""
    model = AutoModelForCausalLM.from_pretrained(source, dtype=dtype)
    model.save_pretrained(folder)
    load_tokenizer_files(source, folder)
    return folder


def load_tokenizer_files(source: Path, folder: Path) -> None:
    for file in source.glob("*token*"):
        (folder / file.name).write_bytes(file.read_bytes())


def widened(export: Path, plain: Path) -> Any:
    """What stock transformers unpacks from an export, its values in float32."""
    exported = AutoModelForCausalLM.from_pretrained(export)
    exported(input_ids=IDS)  # unpacks the weights, in the type of the export
    model = AutoModelForCausalLM.from_pretrained(plain, dtype=torch.float32)
    weights = dict(exported.named_parameters())
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(weights[name])
    return model


ROWS = [
    ("lora", "int4", torch.float32, {}),
    pytest.param("lora", "int8", torch.bfloat16, {"lora_target": "q_proj,up_proj"}, marks=pytest.mark.slow),
    pytest.param("lora", "int4", torch.bfloat16, {}, marks=pytest.mark.slow),
    pytest.param("full", "int4", torch.float32, {}, marks=pytest.mark.slow),
    pytest.param("full", "int8", torch.bfloat16, {}, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("kind", "qat", "dtype", "more"), ROWS)
def test_the_export_is_the_model_that_was_trained(
    keys: Keys, tiny_llama: Path, alpaca: Path, tmp_path: Path, kind: str, qat: str, dtype: torch.dtype, more: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    pytest.importorskip("compressed_tensors")
    base = narrowed(tiny_llama, tmp_path / "base", dtype)
    settings = keys(
        finetuning_type=kind, qat=qat, qat_group_size=32, learning_rate=0.01, max_steps=6, save_strategy="steps",
        save_steps=2, eval_strategy="steps", eval_steps=2, val_size=8, model_name_or_path=str(base), **more,
    )  # fmt: skip
    kept = _Keep()
    whole = train(settings | {"output_dir": str(tmp_path / "whole")}, [kept])
    losses = [row["loss"] for row in log_of(whole) if "loss" in row]
    assert losses[-1] < losses[0] - 0.02
    with pytest.raises(_Killed):
        train(settings, [_Kill()])
    run = train(settings)
    assert_bit_equal(whole, run)

    merged = {"model_name_or_path": str(run)}
    if kind == "lora":
        merged = {"model_name_or_path": str(base), "adapter_name_or_path": str(run)}
    export = {**merged, "template": "chatml", "export_quantization_dataset": str(alpaca)}
    asked = {"export_quantization_bit": int(qat[3:]), "export_quantization_group_size": 32}
    asked |= {"export_quantization_symmetric": True, "export_quantization_search": False}
    asked |= {"export_quantization_own_text": 0}  # random models lose most on text of their own
    run_export({**export, **asked, "export_quantization_method": "rtn", "export_dir": str(tmp_path / "small")})
    assert "trained with qat" not in caplog.text
    assert distance(logits(widened(tmp_path / "small", tiny_llama)), kept.logits) < 1e-5

    run_export({**merged, "template": "chatml", "export_dir": str(tmp_path / "full")})
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "full", dtype=torch.float32)
    assert distance(logits(plain), kept.logits) > 1e-4  # rounding is felt
    assert f"export_quantization_bit={qat[3:]} export_quantization_method=rtn" in caplog.text


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"finetuning_type": "freeze"}, "qat: int4: not with finetuning_type freeze; use full or lora"),
    ({"finetuning_type": "oft"}, "qat: int4: not with finetuning_type oft; use full or lora"),
    ({"stage": "dpo"}, "qat: int4: for stage pt or sft, not dpo"),
    ({"quantization_bit": 4}, "qat: int4: not with quantization_bit"),
    ({"finetuning_type": "full", "fp8": True}, "qat: int4: not with fp8"),
    ({"lora_dropout": 0.1}, "qat: int4: lora_dropout drops inputs of an adapter that is merged"),
    ({"use_dora": True}, "qat: int4: not with use_dora"),
    ({"pissa_init": True}, "qat: int4: not with an adapter that begins as a part of the weights"),
    ({"lora_init": "olora"}, "qat: int4: not with an adapter that begins as a part of the weights"),
    ({"adapter_name_or_path": "a"}, "qat: int4: not on top of an adapter"),
    ({"qat": "int3"}, "qat: "),
    ({"qat_group_size": 48}, "qat_group_size: expected 32, 64 or 128"),
]


@pytest.mark.parametrize(("more", "line"), REFUSED, ids=str)
def test_wrong_combinations(keys: Keys, more: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError, match="^" + re.escape(line)) as caught:
        get_train_args(keys(**(QAT | more)))
    assert "\n" not in str(caught.value)


def test_groups_must_divide_the_layers(keys: Keys) -> None:
    args = get_train_args(keys(qat="int4", qat_group_size=128))
    line = "qat_group_size: 128 does not divide the 64 inputs of model.layers.0.self_attn.q_proj"
    with pytest.raises(ConfigError, match="^" + re.escape(line)):
        load_model(load_tokenizer(args.model), args)


def test_full_training_rounds_the_layers_of_the_blocks_alone(keys: Keys) -> None:
    args = get_train_args(keys(**QAT, finetuning_type="full"))
    model: Any = load_model(load_tokenizer(args.model), args)
    rounded = {name for name, module in model.named_modules() if isinstance(module, RoundedLinear)}
    assert len(rounded) == 2 * 7 and type(model.lm_head) is nn.Linear
