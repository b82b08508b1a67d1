# SPDX-License-Identifier: Apache-2.0
"""Keys that do not go together, through the command line: one line that names them, exit code 1 or 2, no traceback."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from llamafactory import cli

LAYERWISE = {"finetuning_type": "full", "use_galore": True, "galore_layerwise": True}
GALORE = {"finetuning_type": "full", "use_galore": True}
BADAM = {"finetuning_type": "full", "use_badam": True}
FOUR = {"quantization_bit": 4}


def peft(kind: str, **fields: Any) -> dict[str, Any]:
    return {"finetuning_type": kind} | ({"peft_config": fields} if fields else {})


# Keys beside a good configuration -> words of the line: the keys, or the key and the value.
WRONG: list[tuple[dict[str, Any], tuple[str, ...]]] = [
    # quantized bases
    ({**FOUR, "finetuning_type": "full"}, ("quantization_bit", "full")),
    ({**FOUR, "finetuning_type": "freeze"}, ("quantization_bit", "freeze")),
    ({**FOUR, "resize_vocab": True}, ("quantization_bit", "resize_vocab")),
    ({**FOUR, "train_from_scratch": True}, ("quantization_bit", "train_from_scratch")),
    ({**FOUR, "pissa_init": True}, ("pissa_init", "quantization_bit")),
    ({**FOUR, "lora_init": "olora"}, ("lora_init", "olora", "quantiz")),
    ({**FOUR, "adapter_name_or_path": "a,b"}, ("quantization_bit", "one adapter")),
    ({"train_from_scratch": True}, ("train_from_scratch", "lora", "full")),
    ({"quantization_bit": 3}, ("quantization_bit", "3", "bnb")),
    ({**FOUR, "quantization_method": "gptq"}, ("quantization_method", "gptq", "quantization_bit")),
    ({**FOUR, "quantization_type": "int"}, ("quantization_type", "int")),
    ({**FOUR, "fp8": True, "finetuning_type": "full"}, ("quantization_bit",)),
    ({"quantization_device_map": "auto", **FOUR}, ("quantization_device_map",)),
    # adapters
    ({"use_dora": True, "pissa_init": True}, ("pissa_init", "use_dora")),
    ({"use_dora": True, "lora_init": "olora"}, ("lora_init", "use_dora")),
    ({"pissa_convert": True}, ("pissa_convert", "pissa_init")),
    ({"pissa_init": True, "lora_init": "eva"}, ("lora_init", "pissa_init")),
    ({"lora_init": "orthogonal", "lora_rank": 7}, ("lora_init", "orthogonal", "lora_rank")),
    ({"lora_init": "eva", "stage": "dpo"}, ("lora_init", "eva", "dpo")),
    ({"lora_init": "corda", "streaming": True, "max_steps": 1}, ("lora_init", "corda", "stream")),
    ({"finetuning_type": "full", "adapter_name_or_path": "x"}, ("adapter_name_or_path", "full")),
    ({"finetuning_type": "full", "use_dora": True}, ("use_dora", "finetuning_type")),
    ({"finetuning_type": "full", "loraplus_lr_ratio": 16.0}, ("loraplus_lr_ratio", "finetuning_type")),
    ({"additional_target": "quack"}, ("additional_target", "quack")),
    (peft("oft") | {"oft_rank": 7}, ("oft_rank", "7", "divide")),
    (peft("oft") | {"oft_rank": 4, "oft_block_size": 8}, ("oft_rank", "oft_block_size")),
    (peft("c3a", block_size=48), ("finetuning_type", "48")),
    (peft("boft", boft_block_size=7), ("finetuning_type", "7")),
    (peft("vblora", num_vectors=60, vector_length=48), ("finetuning_type", "48")),
    (peft("adalora", total_step=10), ("peft_config", "total_step")),
    (peft("adalora", init_r=4, target_r=8), ("init_r", "target_r")),
    (peft("adalora", tinit=5, tfinal=5), ("tinit", "tfinal", "1 of this run")),
    (peft("adalora") | {"streaming": True, "max_steps": None}, ("max_steps", "adalora", "stream")),
    (peft("adalora") | {"stage": "dpo"}, ("adalora", "dpo", "orth_reg_weight")),
    (peft("prompt_tuning") | {"packing": True}, ("packing", "prompt_tuning")),
    (peft("prompt_tuning") | {"stage": "dpo"}, ("prompt_tuning", "dpo")),
    (peft("prefix_tuning") | {"activation_checkpointing": True}, ("activation_checkpointing", "prefix_tuning")),
    (peft("xlora"), ("finetuning_type", "xlora")),
    (peft("full", r=4), ("peft_config", "finetuning_type")),
    # which weights
    ({"finetuning_type": "full", "use_llama_pro": True}, ("use_llama_pro", "full")),
    ({"finetuning_type": "freeze", "freeze_trainable_layers": 9}, ("freeze_trainable_layers", "9")),
    (
        {"finetuning_type": "freeze", "freeze_trainable_pattern": "a", "freeze_extra_modules": "norm"},
        ("freeze_extra_modules", "freeze_trainable_pattern"),
    ),
    ({"finetuning_type": "freeze", "freeze_trainable_pattern": "norm"}, ("freeze_trainable_pattern", "norm.weight")),
    (
        {"finetuning_type": "freeze", "spectrum_top_fraction": 0.5, "train_from_scratch": True},
        ("spectrum_top_fraction", "train_from_scratch"),
    ),
    ({"lisa_activated_layers": 1}, ("lisa_activated_layers", "finetuning_type", "full")),
    (GALORE | {"lisa_activated_layers": 1}, ("lisa_activated_layers", "galore")),
    # optimizers
    ({"use_galore": True}, ("use_galore", "lora")),
    (GALORE | {"use_badam": True}, ("use_galore", "use_badam")),
    (GALORE | {"fsdp": "full_shard"}, ("fsdp",)),
    (GALORE | {"optim": "sgd"}, ("use_galore", "sgd")),
    (LAYERWISE | {"gradient_accumulation_steps": 2}, ("gradient_accumulation_steps", "galore_layerwise")),
    (LAYERWISE | {"max_grad_norm": 1.0}, ("max_grad_norm", "galore_layerwise")),
    (BADAM | {"fp16": True, "bf16": None}, ("fp16", "use_badam")),
    (BADAM | {"badam_mode": "ratio", "weight_decay": 0.1}, ("weight_decay", "badam_mode")),
    ({"use_muon": True, "optim": "adafactor"}, ("use_muon", "adafactor")),
    ({"use_muon": True, "loraplus_lr_ratio": 4.0}, ("use_muon", "loraplus_lr_ratio")),
    ({"finetuning_type": "full", "stochastic_rounding": True}, ("stochastic_rounding", "pure_bf16")),
    # losses, precision, memory
    ({"use_dft_loss": True, "use_eaft_loss": True}, ("use_dft_loss", "use_eaft_loss")),
    ({"use_dft_loss": True, "label_smoothing_factor": 0.1}, ("label_smoothing_factor", "use_dft_loss")),
    ({"use_eaft_loss": True, "stage": "dpo"}, ("use_eaft_loss", "sft")),
    ({"pure_bf16": True, "fp16": True, "bf16": None}, ("pure_bf16", "fp16")),
    ({"fp8": True}, ("fp8", "lora")),
    ({"activation_offload": "cpu", "activation_checkpointing": False}, ("activation_offload", "activation_check")),
    ({"use_unsloth_gc": True, "activation_offload": "disk"}, ("use_unsloth_gc", "activation_offload")),
    ({"packing": True, "padding_free": False}, ("packing", "padding_free")),
    ({"moe_aux_loss_coef": 0.1}, ("moe_aux_loss_coef", "llama")),
    ({"shift_attn": True, "stage": "kto"}, ("shift_attn", "kto")),
    ({"shift_attn": True, "flash_attn": "sdpa"}, ("shift_attn", "flash_attn")),
    ({"mixture_of_depths": "convert"}, ("mixture_of_depths", "convert")),
    ({"infer_backend": "vllm"}, ("infer_backend", "vllm")),
]


def write(folder: Path, model: Path, more: dict[str, Any]) -> Path:
    rows, path = folder / "rows.json", folder / "config.yaml"
    rows.write_text(json.dumps([{"instruction": "Hi", "output": "Hello."}] * 4), "utf-8")
    keys = {
        "model_name_or_path": str(model), "template": "chatml", "stage": "sft", "finetuning_type": "lora",
        "bf16": False, "dataset": str(rows), "output_dir": str(folder / "out"), "max_steps": 1, **more,
    }  # fmt: skip
    path.write_text(yaml.safe_dump({key: value for key, value in keys.items() if value is not None}), "utf-8")
    return path


def last_line(words: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> str:
    """Run a command that must end in one line of error."""
    monkeypatch.setattr("sys.argv", ["llamafactory-cli", *words])
    code = cli.main()
    errors = capfd.readouterr().err
    assert code in (1, 2) and "Traceback" not in errors, errors
    line = errors.rstrip().splitlines()[-1]
    assert line.startswith("error: ")
    return line


def test_there_are_forty() -> None:
    assert len(WRONG) >= 40 and len({str(keys) for keys, _ in WRONG}) == len(WRONG)


@pytest.mark.parametrize(("keys", "named"), WRONG, ids=lambda part: str(part)[:70])
@pytest.mark.filterwarnings("ignore")
def test_a_wrong_combination_is_one_line(
    keys: dict[str, Any], named: tuple[str, ...], tmp_path: Path, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    line = last_line(["train", str(write(tmp_path, tiny_llama, keys))], monkeypatch, capfd)
    for word in named:
        assert word in line, line
    assert not list((tmp_path / "out").glob("*.safetensors"))


@pytest.mark.parametrize("kind", ["prompt_tuning", "beft"])
@pytest.mark.filterwarnings("ignore")
def test_what_cannot_be_merged_is_not_exported(
    kind: str, tmp_path: Path, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    config = write(tmp_path, tiny_llama, {"finetuning_type": kind})
    monkeypatch.setattr("sys.argv", ["llamafactory-cli", "train", str(config)])
    assert cli.main() == 0
    line = last_line(["export", str(config), f"export_dir={tmp_path / 'merged'}"], monkeypatch, capfd)
    assert "cannot be merged" in line and kind.upper() in line and not (tmp_path / "merged").exists()
