# SPDX-License-Identifier: Apache-2.0
"""LoftQ begins as its paper's algorithm does, over every quantizer, and stays with the base that it was made for."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from llamafactory.chat.chat_model import ChatModel
from llamafactory.export.export import run_export
from llamafactory.extras.errors import ConfigError
from llamafactory.hparams import get_infer_args, get_train_args
from llamafactory.model import load_model, load_tokenizer
from llamafactory.model.quantizers.layers import quantized_layers

from .conftest import Keys
from .running import assert_bit_equal, log_of, train
from .test_quantized_methods import QUANTIZERS
from .test_quantized_runs import _Keep, _Kill, _Killed, distance, logits

RANK = 8


def principal(error: Tensor) -> Tensor:
    """The best approximation of rank ``RANK``, in float64."""
    u, s, v = torch.linalg.svd(error.double(), full_matrices=False)
    return ((u[:, :RANK] * s[:RANK]) @ v[:RANK]).float()


def alternate(weight: Tensor, through: Callable[[Tensor], Tensor], steps: int) -> Tensor:
    """Algorithm 1 of the paper from its start; how far base and adapter are from the weight in the end."""
    product = torch.zeros_like(weight)
    for _ in range(steps):
        base = through(weight - product).detach().float()
        product = principal(weight - base)
    return (weight - base - product).norm()


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize(
    "name", [name if name == "bnb nf4" else pytest.param(name, marks=pytest.mark.slow) for name in QUANTIZERS]
)
def test_it_begins_as_the_paper_says(keys: Keys, tiny_llama: Path, name: str, steps: int) -> None:
    more, through = QUANTIZERS[name]
    args = get_train_args(keys(lora_init="loftq", loftq_iter=steps, lora_rank=RANK, **more))
    model: Any = load_model(load_tokenizer(args.model), args)
    whole = load_file(tiny_llama / "model.safetensors")
    assert len(list(quantized_layers(model))) == 2 * 7
    for path, layer in quantized_layers(model):
        adapted = model.get_submodule(path.removesuffix(".base_layer"))
        plain = path.removesuffix(".base_layer").removeprefix("base_model.model.")
        weight = whole[f"{plain}.weight"]
        found = adapted.scaling["default"] * adapted.lora_B["default"].weight @ adapted.lora_A["default"].weight
        found, base = found.detach(), layer.dense_weight(torch.float32)
        without = (weight - through(weight).detach()).norm()
        # The base is the rounding of what was left, the adapter the first singular directions of what that lost.
        left = weight
        if steps > 1:
            left = weight - model.loftq_base[f"{plain}.B"] @ model.loftq_base[f"{plain}.A"]
        assert (base - through(left).detach()).norm() < 1e-5 * without
        assert (found - principal(weight - base)).norm() < 1e-3 * without
        error = (weight - base - found).norm()
        assert error < 0.9 * without
        # Where singular values are nearly equal, the last bit chooses among them: sums are what alternations share.
        assert float(error) == pytest.approx(float(alternate(weight, through, steps)), rel=0.05)


@pytest.mark.parametrize("steps", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_trained_killed_resumed_served_and_exported(
    keys: Keys, tiny_llama: Path, tmp_path: Path, steps: int, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("bitsandbytes")
    settings = keys(
        quantization_bit=4, lora_init="loftq", loftq_iter=steps, max_steps=6, save_strategy="steps", save_steps=2,
        eval_strategy="steps", eval_steps=2, val_size=8, learning_rate=0.01,
    )  # fmt: skip
    kept = _Keep()
    whole = train(settings | {"output_dir": str(tmp_path / "whole")}, [kept])
    losses = [row["loss"] for row in log_of(whole) if "loss" in row]
    assert losses[-1] < losses[0] - 0.05
    with pytest.raises(_Killed):
        train(settings, [_Kill()])
    run = train(settings)
    assert_bit_equal(whole, run)

    model = {"model_name_or_path": str(tiny_llama), "template": "chatml", "adapter_name_or_path": str(run)}
    args = get_infer_args({**model, "quantization_bit": 4, "infer_dtype": "float32"})
    served = load_model(load_tokenizer(args.model), args, trainable=False)
    assert distance(logits(served), kept.logits) < 1e-6
    run_export({**model, "quantization_bit": 4, "export_dequantized": True, "export_dir": str(tmp_path / "dense")})
    assert distance(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "dense")), kept.logits) < 1e-4
    assert f"{tiny_llama} in 4 bits (bnb), dequantized" in capsys.readouterr().out

    line = rf"^adapter_name_or_path: '{run}' stands on what the weights lost, 4 bits \(bnb\) in its training"
    with pytest.raises(ConfigError, match=line):
        run_export({**model, "quantization_bit": 4, "export_dir": str(tmp_path / "full")})
    for more in ({}, {"quantization_bit": 8}):
        args = get_infer_args(model | more)
        with pytest.raises(ConfigError, match=line):
            load_model(load_tokenizer(args.model), args, trainable=False)
    named = {"model_name_or_path": str(tiny_llama), "template": "chatml", "lora_modules": f"mine={run}"}
    if steps > 1:
        with pytest.raises(ConfigError, match=r"^lora_modules: .* has a base of its own"):
            ChatModel(named | {"quantization_bit": 4})
    with pytest.raises(ConfigError, match=r"^lora_modules: .* stands on what the weights lost"):
        ChatModel(named)
    args = get_train_args(keys(quantization_bit=4, adapter_name_or_path=str(run)))
    with pytest.raises(ConfigError, match=r"began by loftq, and no other run goes on with it"):
        load_model(load_tokenizer(args.model), args)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({}, "lora_init: loftq begins with what quantization_bit loses; set it"),
    ({"quantization_bit": 4, "use_dora": True}, "lora_init: loftq cannot be combined with use_dora"),
    ({"quantization_bit": 4, "peft_config": {"rank_pattern": {"q_proj": 4}}}, "lora_init: loftq: not with peft_config"),
    ({"quantization_bit": 4, "loftq_iter": 0}, "loftq_iter: "),
    ({"quantization_bit": 4, "adapter_name_or_path": "a"}, "lora_init: loftq: an adapter is continued"),
]


@pytest.mark.parametrize(("more", "line"), REFUSED, ids=str)
def test_wrong_combinations(keys: Keys, more: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError, match="^" + re.escape(line)):
        get_train_args(keys(**({"lora_init": "loftq"} | more)))
