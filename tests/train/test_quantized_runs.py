# SPDX-License-Identifier: Apache-2.0
"""A row a quantizer, and some a method: trained, evaluated, killed, resumed, loaded, exported: one model throughout.

Weights of few bits are another model than the whole ones, so every step is compared with what it must be: the trained
one in chat and in the export of the dequantized weights, whole weights with the adapter in the export by default.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, TrainerCallback

from llamafactory.export.export import run_export
from llamafactory.hparams import get_infer_args
from llamafactory.model import load_model, load_tokenizer
from llamafactory.model.quantizers.layers import dequantize, is_quantized

from .conftest import Keys
from .running import assert_bit_equal, curve, train, train_elsewhere

ROWS: dict[str, dict[str, Any]] = {
    "bnb nf4": {"quantization_bit": 4},
    "bnb int8": {"quantization_bit": 8},
    "torchao int8": {"quantization_bit": 8, "quantization_method": "torchao"},
    "hqq": {"quantization_bit": 4, "quantization_method": "hqq"},
    "quanto int8": {"quantization_bit": 8, "quantization_method": "quanto"},
}
FAST = ("bnb nf4",)
# Methods other than LoRA: what an evaluation, a kill or a merge could spoil is in their layers too.
NOT_LORA: dict[str, dict[str, Any]] = {
    "oft": {"oft_block_size": 16},
    "adalora": {"peft_config": {"init_r": 12, "target_r": 4, "tfinal": 3}},
    "ia3": {"learning_rate": 0.2},
    "loha": {"learning_rate": 0.1},
    "lokr": {},
    "hra": {},
    "vera": {"peft_config": {"r": 8}, "learning_rate": 0.1},
    "ln_tuning": {"learning_rate": 0.3},
}
ROWS |= {f"{kind} over bnb nf4": {"quantization_bit": 4, "finetuning_type": kind} | NOT_LORA[kind] for kind in NOT_LORA}
ROWS |= {
    "dora over bnb nf4": {"quantization_bit": 4, "use_dora": True},
    "oft over torchao int8": ROWS["torchao int8"] | {"finetuning_type": "oft", "oft_block_size": 16},
    "loha over hqq": ROWS["hqq"] | {"finetuning_type": "loha", "learning_rate": 0.1},
    "ia3 over quanto int8": ROWS["quanto int8"] | {"finetuning_type": "ia3", "learning_rate": 0.2},
}
IDS = torch.arange(3, 67).view(2, 32)
EVALUATED = {
    "max_steps": 6, "save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": 2,
    "val_size": 8, "load_best_model_at_end": True, "lr_scheduler_type": "constant",
    "learning_rate": 0.02,
}  # fmt: skip


class _Killed(BaseException):
    pass


class _Kill(TrainerCallback):
    """As a kill would: nothing is saved after step 3."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 3:
            raise _Killed


class _Keep(TrainerCallback):
    """The logits that the model gives at the end of training."""

    logits: torch.Tensor

    def on_train_end(self, args: Any, state: Any, control: Any, model: Any, **kwargs: Any) -> None:
        self.logits = logits(model)


@torch.inference_mode()
def logits(model: Any) -> torch.Tensor:
    return model.eval()(input_ids=IDS).logits.float()


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().max() / other.abs().max())


@pytest.mark.parametrize(
    "name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in ROWS]
)
def test_trained_evaluated_killed_resumed_served_and_exported(
    keys: Keys, tiny_llama: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    dropout = {"lora_dropout": 0.1} if "finetuning_type" not in ROWS[name] else {}
    settings, kept = keys(**(EVALUATED | dropout | ROWS[name])), _Keep()
    whole = train(settings | {"output_dir": str(tmp_path / "whole")}, [kept])
    losses = [loss for _, loss, _ in curve(whole)]
    assert losses[-1] < losses[0] - 0.05

    with pytest.raises(_Killed):
        train(settings, [_Kill()])
    run = train(settings)
    assert_bit_equal(whole, run)

    keep = {**ROWS[name], "model_name_or_path": str(tiny_llama), "template": "chatml", "adapter_name_or_path": str(run)}
    args = get_infer_args({**keep, "infer_dtype": "float32"})
    served: Any = load_model(load_tokenizer(args.model), args, trainable=False)
    assert is_quantized(served) and type(served).__name__ == "LlamaForCausalLM"
    trained = logits(served)
    assert distance(trained, kept.logits) < 1e-6

    run_export({**keep, "export_dir": str(tmp_path / "full")})
    base = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32)
    with_adapter = logits(PeftModel.from_pretrained(base, run))
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "full")
    assert distance(logits(merged), with_adapter) < 1e-4 < distance(trained, with_adapter)
    assert (
        f"the full weights of {tiny_llama}; trained over {args.quantization.quantization_bit} bits"
        in capsys.readouterr().out
    )

    run_export({**keep, "export_dir": str(tmp_path / "rounded"), "export_dequantized": True})
    assert distance(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "rounded")), trained) < 1e-4
    assert "bits (" in (said := capsys.readouterr().out) and "dequantized" in said


def test_a_quantized_model_that_was_evaluated_can_be_dequantized_and_merged(tiny_llama: Path, tmp_path: Path) -> None:
    """The same without a run: what an evaluation leaves behind is what was loaded."""
    args = get_infer_args({"model_name_or_path": str(tiny_llama), "quantization_bit": 4, "infer_dtype": "bfloat16"})
    models: list[Any] = [load_model(load_tokenizer(args.model), args, trainable=False) for _ in range(2)]
    logits(models[0])
    for model in models:
        dequantize(model, torch.float32)
    for (key, used), fresh in zip(models[0].state_dict().items(), models[1].state_dict().values(), strict=True):
        assert torch.equal(used, fresh), key


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bnb nf4", "torchao int8"])
def test_two_ranks_are_one(keys: Keys, tmp_path: Path, name: str) -> None:
    """The frozen weights are read by each rank: the tensors of some libraries cannot be sent."""
    settings = keys(**ROWS[name], max_steps=3, use_cpu=True, learning_rate=0.02)
    pair = settings | {"per_device_train_batch_size": 2, "output_dir": str(tmp_path / "pair")}
    done = train_elsewhere(pair, ranks=2)
    assert done.returncode == 0, done.stderr[-2000:]
    found, wanted = curve(tmp_path / "pair"), curve(train(settings))
    assert [value for row in found for value in row] == pytest.approx(
        [value for row in wanted for value in row], rel=1e-5
    )
