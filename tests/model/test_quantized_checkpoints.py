# SPDX-License-Identifier: Apache-2.0
"""Checkpoints whose weights somebody has quantized: adapters train on what the format's own equation says they are."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from llamafactory.export.export import run_export
from llamafactory.extras.errors import ConfigError
from llamafactory.model import load_model, load_tokenizer
from llamafactory.model.quantizers import quantizer as contract
from llamafactory.model.quantizers.layers import is_quantized, quantized_layers
from llamafactory.plugins import resolve

IDS = torch.arange(3, 67).view(2, 32)
BLOCK = 32


def rewritten(
    source: Path, folder: Path, settings: dict[str, Any], change: Callable[[str, Tensor], dict[str, Tensor]]
) -> Path:
    """A copy of a model with other tensors in it, and the settings of a quantizer in its config.json."""
    shutil.copytree(source, folder)
    state = {}
    for name, weight in load_file(source / "model.safetensors").items():
        state |= change(name, weight)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": settings}))
    return folder


def fp8_blocks(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Codes and scales of blocks of 32 x 32, DeepSeek-V3's format: W = code x scale of its block."""
    rows, columns = weight.shape
    blocks = weight.view(rows // BLOCK, BLOCK, columns // BLOCK, BLOCK)
    scale = blocks.abs().amax((1, 3)) / 448
    return (blocks / scale[:, None, :, None]).view(rows, columns).to(torch.float8_e4m3fn), scale


def of_fp8(codes: Tensor, scale: Tensor) -> Tensor:
    return codes.float() * scale.repeat_interleave(BLOCK, 0).repeat_interleave(BLOCK, 1)


def loaded_for_training(folder: Path, train_args: Callable[..., Any], **keys: Any) -> Any:
    args = train_args(folder, **keys)
    return load_model(load_tokenizer(args.model), args)


def base_state(model: Any) -> dict[str, Tensor]:
    return {name.replace(".base_layer", ""): value for name, value in model.get_base_model().state_dict().items()}


@pytest.mark.parametrize("bf16", [False, True])
def test_fp8_blocks(tiny_llama: Path, tmp_path: Path, train_args: Callable[..., Any], bf16: bool) -> None:
    wanted = {}

    def change(name: str, weight: Tensor) -> dict[str, Tensor]:
        if "_proj" not in name:
            return {name: weight}
        codes, scale = fp8_blocks(weight)
        wanted[name] = of_fp8(codes, scale)
        return {name: codes, f"{name}_scale_inv": scale}

    settings = {"quant_method": "fp8", "weight_block_size": [BLOCK, BLOCK], "activation_scheme": "dynamic"}
    folder = rewritten(tiny_llama, tmp_path / "fp8", settings, change)
    model = loaded_for_training(folder, train_args, bf16=bf16)
    dtype = torch.bfloat16 if bf16 else torch.float32
    found = base_state(model)
    for name, weight in wanted.items():
        assert torch.equal(found[name], weight.to(dtype)), name
    assert found["model.embed_tokens.weight"].dtype == dtype and not is_quantized(model)
    model(input_ids=IDS, labels=IDS).loss.backward()
    full = loaded_for_training(folder, train_args, bf16=bf16, finetuning_type="full")
    assert all(weight.requires_grad and weight.dtype == torch.float32 for weight in full.parameters())


def test_mxfp4_experts(make_tiny_model: Any, tmp_path: Path, train_args: Callable[..., Any]) -> None:
    """OCP microscaling: 32 values of four bits (e2m1) share a power of two; two lie in a byte, the first one low."""
    values = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])
    levels = torch.cat([values, -values])
    source = make_tiny_model(
        "gpt_oss", hidden_size=64, intermediate_size=64, num_local_experts=2, num_experts_per_tok=1,
        layer_types=["full_attention"] * 2, tie_word_embeddings=False,
    )  # fmt: skip
    wanted: dict[str, Tensor] = {}
    torch.manual_seed(0)

    def change(name: str, weight: Tensor) -> dict[str, Tensor]:
        if not name.endswith(("gate_up_proj", "down_proj")):
            return {name: weight.contiguous()}
        experts, inputs, outputs = weight.shape  # blocks run along the inputs of each output
        codes = torch.randint(16, (experts, outputs, inputs // 32, 32))
        scales = torch.randint(120, 130, (experts, outputs, inputs // 32))
        dense = levels[codes] * torch.exp2(scales.float() - 127)[..., None]
        wanted[name] = dense.view(experts, outputs, inputs).transpose(1, 2)
        packed = codes[..., ::2] | (codes[..., 1::2] << 4)
        return {f"{name}_blocks": packed.to(torch.uint8), f"{name}_scales": scales.to(torch.uint8)}

    folder = rewritten(source, tmp_path / "mxfp4", {"quant_method": "mxfp4"}, change)
    model = loaded_for_training(folder, train_args, lora_target="q_proj,v_proj")
    found = base_state(model)
    assert len(wanted) == 4
    for name, weight in wanted.items():
        assert torch.equal(found[name], weight), name
    model(input_ids=IDS, labels=IDS).loss.backward()


@pytest.mark.parametrize(("bits", "method"), [(4, "rtn"), (8, "fp8")])
def test_our_own_exports(
    make_tiny_model: Any, tmp_path: Path, train_args: Callable[..., Any], bits: int, method: str
) -> None:
    """An adapter trains over our int4 and fp8 exports and is merged into what they hold, which the export proves."""
    pytest.importorskip("compressed_tensors")
    base, out, texts = make_tiny_model(), tmp_path / "small", tmp_path / "texts.jsonl"
    texts.write_text("".join(json.dumps({"text": f"who are you {n} and what is a river"}) + "\n" for n in range(24)))
    run_export({
        "model_name_or_path": str(base), "template": "chatml", "export_dir": str(out), "export_quantization_bit": bits,
        "export_quantization_method": method, "export_quantization_dataset": str(texts),
        "export_quantization_nsamples": 16, "export_quantization_group_size": 32,
    })  # fmt: skip
    stock = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    stock(input_ids=IDS)  # the first forward unpacks the weights
    model = loaded_for_training(out, train_args)
    found = base_state(model)
    for name, weight in stock.named_parameters():
        if name.endswith("_proj.weight"):
            assert torch.allclose(found[name], weight, atol=1e-6), name
    model(input_ids=IDS, labels=IDS).loss.backward()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1)
    model.save_pretrained(tmp_path / "adapter")
    run_export({
        "model_name_or_path": str(out), "template": "chatml", "export_dir": str(tmp_path / "merged"),
        "adapter_name_or_path": str(tmp_path / "adapter"), "infer_dtype": "float32",
    })  # fmt: skip
    with torch.no_grad():
        wanted = model.eval()(input_ids=IDS).logits
        merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")(input_ids=IDS).logits
    assert (merged - wanted).abs().max() < 1e-4 * wanted.abs().max()


def test_bitsandbytes(tiny_llama: Path, tmp_path: Path, train_args: Callable[..., Any]) -> None:
    functional = pytest.importorskip("bitsandbytes").functional
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
    stock = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32, quantization_config=config)
    shutil.copytree(tiny_llama, tmp_path / "bnb")
    stock.save_pretrained(tmp_path / "bnb")
    model = loaded_for_training(tmp_path / "bnb", train_args)
    with torch.no_grad():
        model.eval()(input_ids=IDS)
    whole = load_file(tiny_llama / "model.safetensors")
    for name, layer in quantized_layers(model.get_base_model()):
        packed = functional.quantize_4bit(
            whole[name.replace("base_layer", "weight")], quant_type="nf4", compress_statistics=True
        )
        assert torch.equal(layer.dense_weight(torch.float32), functional.dequantize_4bit(*packed)), name
    with pytest.raises(
        ConfigError, match=r"^finetuning_type: freeze, but .* holds weights quantized by bitsandbytes: weights in few"
    ):
        loaded_for_training(tmp_path / "bnb", train_args, finetuning_type="freeze")
    for start in ({"pissa_init": True}, {"lora_init": "olora"}, {"lora_init": "lora_ga"}):
        with pytest.raises(ConfigError, match=": takes a part out of the weights, which this checkpoint holds in few"):
            loaded_for_training(tmp_path / "bnb", train_args, **start)


REFUSED: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    (
        {"quant_method": "gptq", "bits": 4},
        {},
        "holds weights quantized by gptq: needs the package gptqmodel; pip install",
    ),
    (
        {"quant_method": "awq", "bits": 4},
        {},
        "holds weights quantized by awq: needs the package gptqmodel; pip install",
    ),
    ({"quant_method": "aqlm"}, {}, "holds weights quantized by aqlm: needs the package aqlm; pip install aqlm"),
    ({"quant_method": "vptq"}, {}, "holds weights quantized by vptq, which take no adapter; known: bnb, torchao"),
    ({"bits": 4}, {}, "holds weights quantized by a method that config.json does not name, which take no adapter"),
    (
        {"quant_method": "eetq"},
        {},
        "holds weights quantized by eetq: PEFT has no adapters for the EETQ layers of transformers 5",
    ),
    (
        {"quant_method": "gptq"},
        {"quantization_bit": 4},
        "holds weights that are quantized by gptq already; leave it out",
    ),
]


def test_an_adapter_that_peft_lacks_for_a_format_is_said_before_weights_are_read(
    tiny_llama: Path, tmp_path: Path, train_args: Callable[..., Any]
) -> None:
    folder = rewritten(tiny_llama, tmp_path / "model", {"quant_method": "awq", "bits": 4}, lambda name, weight: {})
    line = f"finetuning_type: oft, but '{folder}' holds weights quantized by awq: PEFT has lora, ln_tuning"
    with pytest.raises(ConfigError, match="^" + re.escape(line)):
        loaded_for_training(folder, train_args, finetuning_type="oft")


@pytest.mark.parametrize(("settings", "keys", "said"), REFUSED, ids=str)
def test_what_cannot_be_had_is_said_before_weights_are_read(
    tiny_llama: Path, tmp_path: Path, train_args: Callable[..., Any], settings: Any, keys: Any, said: str
) -> None:
    folder = rewritten(tiny_llama, tmp_path / "model", settings, lambda name, weight: {})  # no weight to be read
    with pytest.raises(ConfigError, match=rf"^(model_name_or_path|quantization_bit): '{folder}' {re.escape(said)}"):
        loaded_for_training(folder, train_args, **keys)


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        (
            {"quantization_method": "eetq"},
            "quantization_bit: 8 with quantization_method eetq: PEFT has no adapters for the EETQ layers",
        ),
        (
            {"quantization_method": "torchao", "quantization_bit": 4},
            "quantization_bit: 4 with quantization_method torchao: torchao has kernels of 4 bits for GPUs only",
        ),
    ],
    ids=str,
)
def test_a_method_of_other_devices_says_so(
    tiny_llama: Path, train_args: Callable[..., Any], keys: dict[str, Any], line: str
) -> None:
    with pytest.raises(ConfigError, match="^" + re.escape(line)):
        loaded_for_training(tiny_llama, train_args, **({"quantization_bit": 8} | keys), use_cpu=True)


def test_eetq_is_for_gpus(tiny_llama: Path, infer_args: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """It cannot run here: what it asks of transformers is there, and a CPU is refused before weights are read."""
    from transformers.integrations.eetq import EetqLinear, replace_with_eetq_linear

    args = infer_args(tiny_llama, quantization_bit=8, quantization_method="eetq")
    with pytest.raises(ConfigError, match=r"^quantization_bit: 8 with quantization_method eetq: eetq computes on cuda"):
        load_model(load_tokenizer(args.model), args, trainable=False, use_cpu=True)
    options = resolve("quantizers", "eetq").options(args.quantization, None, None)
    assert options["quantization_config"].quant_method == "eetq"
    assert callable(replace_with_eetq_linear) and EetqLinear(4, 4).weight_scales.shape == (4,)


@pytest.mark.parametrize("method", ["bnb", "torchao", "hqq", "quanto"])
def test_a_missing_package_is_named_with_its_pip_line(
    tiny_llama: Path, train_args: Callable[..., Any], method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(package: str, key: str, pip: str) -> None:
        raise ConfigError(f"{key}: needs the package {package}; pip install {pip}")

    monkeypatch.setattr(contract, "require_installed", absent)
    pip = {"bnb": "bitsandbytes", "quanto": "optimum-quanto"}.get(method, method)
    line = rf"^quantization_bit: 8 with quantization_method {method}: needs the package \S+; pip install {pip}$"
    with pytest.raises(ConfigError, match=line):
        loaded_for_training(tiny_llama, train_args, quantization_bit=8, quantization_method=method)
