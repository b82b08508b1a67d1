# SPDX-License-Identifier: Apache-2.0
"""Every method of PEFT over every quantizer computes what PEFT computes over the dequantized weights, or says no."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from llamafactory.export.export import run_export
from llamafactory.extras.errors import ConfigError
from llamafactory.hparams import get_infer_args, get_train_args
from llamafactory.hparams.rules.model import NOT_OVER_FEW_BITS
from llamafactory.model import load_model, load_tokenizer
from llamafactory.model.quantizers.layers import quantized_layers
from llamafactory.model.quantizers.record import MADE_OF_WEIGHTS

from .conftest import Keys
from .running import train
from .test_peft_methods import COMMON, ROWS

IDS = torch.arange(3, 67).view(2, 32)


def by_bnb_4(weight: Tensor) -> Tensor:
    functional = pytest.importorskip("bitsandbytes").functional
    packed = functional.quantize_4bit(weight, quant_type="nf4", compress_statistics=True, blocksize=64)
    return functional.dequantize_4bit(*packed)


def by_bnb_8(weight: Tensor) -> Tensor:
    """Row i is ``W_q[i] s_i / 127``; FROD's basis is another one for the least other rounding of it."""
    codes, scale = pytest.importorskip("bitsandbytes").functional.int8_vectorwise_quant(weight.half())[:2]
    return codes.float() * (scale.float() / 127)[:, None]


def by_torchao(weight: Tensor) -> Tensor:
    quantization = pytest.importorskip("torchao.quantization")
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight = nn.Parameter(weight.clone(), requires_grad=False)
    quantization.quantize_(layer, quantization.Int8WeightOnlyConfig())
    return layer.weight.dequantize()


def by_hqq(weight: Tensor) -> Tensor:
    hqq = pytest.importorskip("hqq.core.quantize")
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False).requires_grad_(False)
    layer.weight.copy_(weight)
    config = hqq.BaseQuantizeConfig(nbits=4, group_size=64, axis=1)
    return hqq.HQQLinear(layer, config, compute_dtype=torch.float32, device="cpu").dequantize()


def by_quanto(weight: Tensor) -> Tensor:
    quanto = pytest.importorskip("optimum.quanto")
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False).requires_grad_(False)
    layer.weight.copy_(weight)
    packed = quanto.QLinear.from_module(layer, weights=quanto.qint8)
    packed.freeze()
    return packed.weight.dequantize()


# What the package itself makes of one weight.
QUANTIZERS: dict[str, tuple[dict[str, Any], Callable[[Tensor], Tensor]]] = {
    "bnb nf4": ({"quantization_bit": 4}, by_bnb_4),
    "bnb int8": ({"quantization_bit": 8}, by_bnb_8),
    "torchao int8": ({"quantization_bit": 8, "quantization_method": "torchao"}, by_torchao),
    "hqq 4": ({"quantization_bit": 4, "quantization_method": "hqq"}, by_hqq),
    "quanto int8": ({"quantization_bit": 8, "quantization_method": "quanto"}, by_quanto),
}
METHODS: dict[str, dict[str, Any]] = {
    kind: {"finetuning_type": kind} | row.keys
    for kind, row in ROWS.items()
    if kind not in NOT_OVER_FEW_BITS and " " not in kind
} | {"dora": {"use_dora": True}, "rslora": {"use_rslora": True}}
# Those whose layers read the weight (DoRA, HRA, LoHa), are made of it (PSOFT), or that PEFT 0.21 computes otherwise
# around a layer of bitsandbytes; the rest is slow.
FAST = ("oft", "dora", "adalora", "hra", "ia3", "loha", "psoft", "unilora", "prompt_tuning")


def dequantized(folder: Path, through: Callable[[Tensor], Tensor]) -> Any:
    """Stock transformers on dense weights that went through the quantizer."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and name != "lm_head":
            module.weight = nn.Parameter(through(module.weight.detach()).detach().float(), requires_grad=False)
    return model


def copy_adapter(source: Any, target: Any) -> None:
    """Whatever is trained; of p-tuning a file keeps only what the network gives."""
    if source.active_peft_config.is_prompt_learning:
        target.prompt_encoder.load_state_dict(source.prompt_encoder.state_dict())
    else:
        state = get_peft_model_state_dict(source)
        set_peft_model_state_dict(target, {key: value.clone() for key, value in state.items()})


def logits(model: Any) -> Tensor:
    return model(input_ids=IDS).logits[:, -IDS.shape[1] :]  # PEFT gives those of virtual tokens too


def gradients(model: Any) -> Tensor:
    scores = torch.log_softmax(logits(model)[:, :-1], -1)
    (-scores.gather(-1, IDS[:, 1:, None]).mean()).backward()
    found = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    return torch.cat([found[name].flatten() for name in sorted(found)])


PAIRS = [
    pytest.param(kind, name, marks=[] if kind in FAST and name == "bnb nf4" else pytest.mark.slow)
    for kind in METHODS
    for name in QUANTIZERS
]


@pytest.mark.parametrize(("kind", "name"), PAIRS)
@pytest.mark.filterwarnings("ignore")
def test_a_method_computes_the_same_over_dequantized_weights(
    keys: Keys, tiny_llama: Path, kind: str, name: str
) -> None:
    more, through = QUANTIZERS[name]
    args = get_train_args(keys(**(METHODS[kind] | {"bf16": False} | more)))
    ours: Any = load_model(load_tokenizer(args.model), args)
    assert len(list(quantized_layers(ours))) == 2 * 7
    torch.manual_seed(1)
    theirs = get_peft_model(dequantized(tiny_llama, through), copy.deepcopy(ours.peft_config["default"])).eval()
    with torch.no_grad():
        for weight in theirs.parameters():
            if weight.requires_grad:
                weight.add_(0.05 * torch.randn_like(weight))
    copy_adapter(theirs, ours)

    with torch.no_grad():
        wanted = logits(theirs)
        for training in (False, True, False):  # an evaluation first: bitsandbytes on a CPU repacks the weights in it
            found = logits(ours.train(training))
            if kind != "pvera" or not training:  # which adds noise in training
                assert (found - wanted).abs().max() < 1e-3 * wanted.abs().max()
    assert torch.nn.functional.cosine_similarity(gradients(ours.eval()), gradients(theirs), dim=0) > 0.999


@pytest.mark.filterwarnings("ignore")
def test_an_adapter_made_of_the_weights_stays_with_them(keys: Keys, tiny_llama: Path, tmp_path: Path) -> None:
    """PSOFT rotates in the principal subspace of the weights it trained over: over others it would be another."""
    pytest.importorskip("bitsandbytes")
    run = train(keys(**(METHODS["psoft"] | COMMON | {"quantization_bit": 4})))
    model = {"model_name_or_path": str(tiny_llama), "template": "chatml", "adapter_name_or_path": str(run)}
    line = rf"^adapter_name_or_path: '{run}' stands on the singular vectors of the weights, 4 bits \(bnb\) in its"
    for more in ({}, {"quantization_bit": 8}, {"quantization_bit": 4, "quantization_type": "fp4"}):
        args = get_infer_args(model | more)
        with pytest.raises(ConfigError, match=line):
            load_model(load_tokenizer(args.model), args, trainable=False)
    with pytest.raises(ConfigError, match=line):
        run_export(model | {"quantization_bit": 4, "export_dir": str(tmp_path / "whole")})

    args = get_infer_args(model | {"quantization_bit": 4, "infer_dtype": "float32"})
    served = load_model(load_tokenizer(args.model), args, trainable=False)
    run_export(model | {"quantization_bit": 4, "export_dir": str(tmp_path / "rounded"), "export_dequantized": True})
    with torch.no_grad():
        wanted, found = logits(served), logits(AutoModelForCausalLM.from_pretrained(tmp_path / "rounded"))
    assert (found - wanted).abs().max() < 1e-4 * wanted.abs().max()


@pytest.mark.slow
@pytest.mark.parametrize("kind", METHODS)
@pytest.mark.filterwarnings("ignore")
def test_which_adapters_are_made_of_the_weights(keys: Keys, tiny_llama: Path, kind: str) -> None:
    """What an adapter changes over whole weights is what it changed over those in 4 bits, or it is refused there."""
    args = get_train_args(keys(**(METHODS[kind] | {"bf16": False})))
    config = load_model(load_tokenizer(args.model), args).peft_config["default"]
    effects, tuned, first = [], None, None
    for through in (by_bnb_4, lambda weight: weight):
        base = dequantized(tiny_llama, through).eval()
        with torch.no_grad():
            before = logits(base)
        torch.manual_seed(1)
        tuned = get_peft_model(base, copy.deepcopy(config)).eval()
        with torch.no_grad():
            for weight in tuned.parameters():
                if weight.requires_grad and first is None:
                    weight.add_(0.05 * torch.randn_like(weight))
        first = first or tuned
        copy_adapter(first, tuned)
        with torch.no_grad():
            effects.append((logits(tuned) - before).flatten())
    near = torch.nn.functional.cosine_similarity(*effects, dim=0)
    assert (near < 0.96) == (str(config.peft_type.value) in MADE_OF_WEIGHTS), float(near)


def test_a_layer_in_few_bits_is_not_trained_whole(keys: Keys) -> None:
    args = get_train_args(keys(quantization_bit=4, lora_target="v_proj", additional_target="q_proj"))
    line = "additional_target: q_proj holds weights in few bits, which cannot be trained"
    with pytest.raises(ConfigError, match="^" + re.escape(line)):
        load_model(load_tokenizer(args.model), args)
