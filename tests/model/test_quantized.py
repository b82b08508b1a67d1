# SPDX-License-Identifier: Apache-2.0
"""Adapters over weights in few bits compute ``x W'^T + s x A^T B^T``, in training as after an evaluation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from media_models import build
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from llamafactory.model import load_model, load_tokenizer
from llamafactory.model.heads import REWARD
from llamafactory.model.quantizers.layers import dequantize, quantized_layers
from llamafactory.model.report import trainable_line


def bnb_4bit(weight: Tensor, kind: str, double: bool = True) -> Tensor:
    functional = pytest.importorskip("bitsandbytes").functional
    return functional.dequantize_4bit(
        *functional.quantize_4bit(weight, quant_type=kind, compress_statistics=double, blocksize=64)
    )


def bnb_8bit(weight: Tensor) -> Tensor:
    functional = pytest.importorskip("bitsandbytes").functional
    return functional.int8_vectorwise_dequant(*functional.int8_vectorwise_quant(weight.half())[:2])


def linear(weight: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight = nn.Parameter(weight.clone(), requires_grad=False)
    return layer


def torchao_8bit(weight: Tensor, scheme: str) -> Tensor:
    quantization = pytest.importorskip("torchao.quantization")
    layer = linear(weight)
    quantization.quantize_(layer, getattr(quantization, scheme)())
    return layer.weight.dequantize()


def by_hqq(weight: Tensor, bits: int) -> Tensor:
    hqq = pytest.importorskip("hqq.core.quantize")
    config = hqq.BaseQuantizeConfig(nbits=bits, group_size=64, axis=1)
    return hqq.HQQLinear(linear(weight), config, compute_dtype=torch.float32, device="cpu").dequantize()


def by_quanto(weight: Tensor, kind: str) -> Tensor:
    quanto = pytest.importorskip("optimum.quanto")
    packed = quanto.QLinear.from_module(linear(weight), weights=getattr(quanto, kind))
    packed.freeze()
    return packed.weight.dequantize()


# Keys → what the library itself makes of one weight.
METHODS: dict[str, tuple[dict[str, Any], Callable[[Tensor], Tensor]]] = {
    "nf4 double": ({"quantization_bit": 4}, lambda w: bnb_4bit(w, "nf4")),
    "nf4": ({"quantization_bit": 4, "double_quantization": False}, lambda w: bnb_4bit(w, "nf4", double=False)),
    "fp4": ({"quantization_bit": 4, "quantization_type": "fp4"}, lambda w: bnb_4bit(w, "fp4")),
    "int8": ({"quantization_bit": 8}, bnb_8bit),
    "torchao int8": (
        {"quantization_bit": 8, "quantization_method": "torchao"},
        lambda w: torchao_8bit(w, "Int8WeightOnlyConfig"),
    ),
    "torchao fp8": (
        {"quantization_bit": 8, "quantization_method": "torchao", "quantization_type": "fp8"},
        lambda w: torchao_8bit(w, "Float8WeightOnlyConfig"),
    ),
    "hqq 4": ({"quantization_bit": 4, "quantization_method": "hqq"}, lambda w: by_hqq(w, 4)),
    "hqq 3": ({"quantization_bit": 3, "quantization_method": "hqq"}, lambda w: by_hqq(w, 3)),
    "quanto int8": ({"quantization_bit": 8, "quantization_method": "quanto"}, lambda w: by_quanto(w, "qint8")),
}


@pytest.fixture(params=METHODS)
def method(request: pytest.FixtureRequest) -> tuple[dict[str, Any], Callable[[Tensor], Tensor]]:
    return METHODS[request.param]


def rounded(folder: Path, through: Callable[[Tensor], Tensor], **lora: Any) -> Any:
    """Stock transformers and PEFT on dense weights that went through the quantizer, the adapter far from zero."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and name != "lm_head":
            module.weight = nn.Parameter(through(module.weight.detach()).float(), requires_grad=False)
    torch.manual_seed(1)
    tuned = get_peft_model(
        model, LoraConfig(lora_alpha=16, target_modules="all-linear", init_lora_weights=False, **lora)
    )
    return tuned


def loss_of(model: Any, ids: Tensor) -> Tensor:
    return model(input_ids=ids, labels=ids).loss


def gradients(model: Any) -> Tensor:
    return torch.cat([p.grad.flatten() for _, p in sorted(model.named_parameters()) if p.grad is not None])


def assert_computes_the_same(ours: Any, theirs: Any, tolerance: float = 1e-3) -> None:
    ids = torch.arange(3, 67).view(2, 32)
    wanted = theirs.eval()(input_ids=ids).logits.detach()
    for training in (False, True, False):  # an evaluation first: bitsandbytes on a CPU repacks the weights in it
        with torch.no_grad():
            found = ours.train(training)(input_ids=ids).logits
        assert (found - wanted).abs().max() < tolerance * wanted.abs().max()
    loss_of(ours.train(), ids).backward()
    loss_of(theirs.train(), ids).backward()
    assert torch.nn.functional.cosine_similarity(gradients(ours), gradients(theirs), dim=0) > 0.999


def test_forward_and_gradient_are_those_of_the_dequantized_weights(
    tiny_llama: Path, train_args: Callable[..., Any], method: tuple[dict[str, Any], Callable[[Tensor], Tensor]]
) -> None:
    keys, through = method
    theirs = rounded(tiny_llama, through)
    args = train_args(tiny_llama, **keys)
    ours: Any = load_model(load_tokenizer(args.model), args)
    set_peft_model_state_dict(ours, get_peft_model_state_dict(theirs))
    assert len(list(quantized_layers(ours))) == 2 * 7
    assert_computes_the_same(ours, theirs)


@pytest.mark.parametrize("name", ["nf4 double", "int8", "torchao int8", "hqq 4", "quanto int8"])
def test_dora_measures_the_dequantized_weights_after_an_evaluation_too(
    tiny_llama: Path, train_args: Callable[..., Any], name: str
) -> None:
    keys, through = METHODS[name]
    theirs = rounded(tiny_llama, through, use_dora=True)
    args = train_args(tiny_llama, use_dora=True, **keys)
    ours: Any = load_model(load_tokenizer(args.model), args)
    set_peft_model_state_dict(ours, get_peft_model_state_dict(theirs))
    assert_computes_the_same(ours, theirs)


def test_dequantizing_after_an_evaluation_gives_the_same_model(
    tiny_llama: Path, infer_args: Callable[..., Any], method: tuple[dict[str, Any], Callable[[Tensor], Tensor]]
) -> None:
    keys, through = method
    args = infer_args(tiny_llama, **keys)
    model: Any = load_model(load_tokenizer(args.model), args, trainable=False)
    ids = torch.arange(3, 67).view(2, 32)
    with torch.inference_mode():
        before = model(input_ids=ids).logits
    dequantize(model, torch.float32)
    with torch.inference_mode():
        after = model(input_ids=ids).logits
    assert (after - before).abs().max() <= 1e-5 * before.abs().max()
    plain = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32).state_dict()
    for name, weight in model.state_dict().items():
        wanted = through(plain[name]).float() if "_proj" in name else plain[name]
        assert torch.allclose(weight, wanted.detach(), atol=1e-3 * float(wanted.detach().abs().max())), name
    assert getattr(model.config, "quantization_config", None) is None


def test_head_embedding_and_reward_score_are_not_quantized(tiny_llama: Path, train_args: Callable[..., Any]) -> None:
    args = train_args(tiny_llama, quantization_bit=4, stage="rm")
    model: Any = load_model(load_tokenizer(args.model), args, head=REWARD).get_base_model()
    assert {name.removesuffix(".base_layer").rsplit(".", 1)[-1] for name, _ in quantized_layers(model)} == {
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    }  # fmt: skip
    assert all(weight.is_floating_point() for weight in model.score.parameters())
    assert model.get_input_embeddings().weight.dtype == torch.float32


def test_weights_are_counted_one_by_one(tiny_llama: Path, train_args: Callable[..., Any]) -> None:
    lines = []
    for bits in (None, 4, 8):
        args = train_args(tiny_llama, quantization_bit=bits)
        lines.append(trainable_line(load_model(load_tokenizer(args.model), args)))
    assert lines[0] == lines[1] == lines[2]


@pytest.mark.parametrize("family", ["qwen2_vl", "gemma3", "llava"])
@pytest.mark.parametrize("name", ["nf4 double", "hqq 4"])
def test_towers_stay_whole(
    tiny_llama: Path, tmp_path: Path, train_args: Callable[..., Any], family: str, name: str
) -> None:
    folder = build(family, tmp_path / family, tiny_llama)
    args = train_args(folder, **METHODS[name][0])
    model: Any = load_model(load_tokenizer(args.model), args)
    names = [name for name, _ in quantized_layers(model.get_base_model())]
    assert len(names) == 2 * 7 and all("language_model" in name for name in names)
    loss_of(model, torch.arange(3, 67).view(2, 32)).backward()
    assert gradients(model).abs().max() > 0
