# SPDX-License-Identifier: Apache-2.0
"""Keys that cannot take effect: one line each, and what files of today carry goes on running."""

from __future__ import annotations

import re
from importlib.util import find_spec
from typing import Any, get_args

import pytest
from transformers.training_args import OptimizerNames

from llamafactory.extras import logging
from llamafactory.extras.errors import ConfigError, UsageError
from llamafactory.hparams import TrainArgs, get_infer_args, get_train_args
from llamafactory.hparams.rules import optimizer
from llamafactory.hparams.training_args import OptimizerName

BASE = {"model_name_or_path": "org/tiny", "dataset": "identity"}


def train(**keys: Any) -> TrainArgs:
    return get_train_args({**BASE, **keys})


NOT_BUILT = [
    ({"deepspeed": "ds_z3.json"}, "DeepSpeed"),
    ({"deepspeed": {"zero_optimization": {"stage": 2}}}, "DeepSpeed"),
    ({"fsdp": "full_shard auto_wrap"}, "fully sharded data parallelism"),
    ({"fsdp": True}, "fully sharded data parallelism"),
    ({"fsdp_config": {"version": 2}}, "fully sharded data parallelism"),
    ({"parallelism_config": {"tp_size": 2}}, "parallel dimensions of a model"),
    ({"accelerator_config": {"split_batches": True}}, "Accelerate's own handling of batches"),
    ({"average_tokens_across_devices": False}, "a loss that each device weighs by itself"),
    ({"freeze_vision_tower": False}, "training parts of multimodal models"),
    ({"freeze_multi_modal_projector": False}, "training parts of multimodal models"),
    ({"ignore_pad_token_for_loss": False}, "a loss on padding"),
    ({"bf16_full_eval": True}, "another number format in evaluation"),
    ({"fp16_full_eval": True}, "another number format in evaluation"),
    ({"dataloader_in_order": False}, "batches in the order they get ready"),
    ({"generation_config": "here"}, "generation settings from a file"),
    ({"label_names": ["answers"]}, "labels from other columns"),
    ({"length_column_name": "size"}, "lengths from a column"),
    ({"download_mode": "force_redownload"}, "downloading benchmarks anew"),
]


@pytest.mark.parametrize(("keys", "part"), NOT_BUILT, ids=str)
def test_parts_not_built(keys: dict[str, Any], part: str) -> None:
    [(key, value)] = keys.items()
    line = f"{key}: {value} asks for {part}, which is not built yet in this version"
    with pytest.raises(UsageError, match=f"^{re.escape(line)}$"):
        train(**keys)


@pytest.mark.parametrize("name", ["ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"])
def test_what_accelerate_launch_asks_for(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "false")
    assert train()
    monkeypatch.setenv(name, "true")
    with pytest.raises(UsageError, match=f"^{name}: asks for .*, which is not built yet in this version$"):
        train()
    assert get_infer_args(BASE)


NO_EFFECT = [
    ({"galore_rank": 64}, "galore_rank: has no effect without use_galore"),
    ({"apollo_scale": 1.0}, "apollo_scale: has no effect without use_apollo"),
    ({"badam_mode": "ratio"}, "badam_mode: has no effect without use_badam"),
    ({"fp8_backend": "te"}, "fp8_backend: has no effect without fp8"),
    ({"profiler_wait_steps": 3}, "profiler_wait_steps: has no effect without enable_torch_profiler"),
    ({"tensor_model_parallel_size": 2}, "tensor_model_parallel_size: has no effect without use_megatron_bridge"),
    ({"mixed_precision": "fp16"}, "mixed_precision: has no effect without use_megatron_bridge"),
    ({"ray_num_workers": 4}, r"ray_num_workers: has no effect without Ray \(USE_RAY=1\)"),
    ({"master_addr": "host"}, r"master_addr: has no effect without Ray \(USE_RAY=1\)"),
    ({"asft_alpha": 0.5}, "asft_alpha: has no effect without use_asft_loss"),
    ({"eaft_alpha": 0.5}, "eaft_alpha: has no effect without use_eaft_loss"),
    ({"hyper_parallel_cp_size": 2}, "hyper_parallel_cp_size: has no effect without use_hyper_parallel"),
    ({"kt_weight_path": "w"}, "kt_weight_path: has no effect without use_kt"),
    ({"kt_config": "c"}, "kt_config: has no effect without use_kt"),
    ({"loraplus_lr_embedding": 1e-5}, "loraplus_lr_embedding: has no effect without loraplus_lr_ratio"),
    ({"quantization_method": "gptq"}, "quantization_method: has no effect without quantization_bit"),
    ({"quantization_method": "bnb"}, "quantization_method: has no effect without quantization_bit"),
    ({"quantization_type": "fp4"}, "quantization_type: has no effect without quantization_bit"),
    ({"double_quantization": False}, "double_quantization: has no effect without quantization_bit"),
    ({"optim_target_modules": "all-linear"}, "optim_target_modules: has no effect without optim galore_"),
    # another stage
    ({"pref_loss": "simpo"}, "pref_loss: only for stage dpo, not sft"),
    ({"pref_beta": 0.5}, "pref_beta: only for stage rm and dpo and kto, not sft"),
    ({"pref_ftx": 1.0, "stage": "rm"}, "pref_ftx: only for stage dpo and kto, not rm"),
    ({"kto_rejected_weight": 2.0, "stage": "dpo"}, "kto_rejected_weight: only for stage kto, not dpo"),
    ({"ppo_target": 3.0}, "ppo_target: only for stage ppo, not sft"),
    ({"num_generations": 4}, "num_generations: only for stage grpo, not sft"),
    ({"reward_model": "r"}, "reward_model: only for stage ppo and grpo, not sft"),
    ({"ref_model": "r", "stage": "pt"}, "ref_model: only for stage .*, not pt"),
    ({"label_smoothing_factor": 0.1, "stage": "dpo"}, "label_smoothing_factor: only for stage pt and sft, not dpo"),
    # another tuner
    *(
        ({**keys, "finetuning_type": kind}, f"{next(iter(keys))}: only for finetuning_type lora, not {kind}")
        for kind in ("full", "freeze")
        for keys in (
            {"use_rslora": True},
            {"use_dora": "true"},
            {"pissa_init": True},
            {"pissa_convert": True},
            {"loraplus_lr_ratio": 16},
            {"additional_target": "embed_tokens"},
            {"create_new_adapter": True},
        )
    ),
    ({"freeze_extra_modules": "norm"}, "freeze_extra_modules: only for finetuning_type freeze, not lora"),
]


@pytest.mark.parametrize(("keys", "message"), NO_EFFECT, ids=str)
def test_what_cannot_take_effect_is_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{message}") as caught:
        train(**keys)
    assert caught.value.exit_code == 1 and "\n" not in str(caught.value)


def test_quantization_without_bits_is_refused_in_serving_too() -> None:
    with pytest.raises(ConfigError, match=r"^quantization_method: has no effect without quantization_bit"):
        get_infer_args({**BASE, "quantization_method": "bnb"})
    with pytest.raises(ConfigError, match=r"^kt_weight_path: has no effect without use_kt"):
        get_infer_args({**BASE, "kt_weight_path": "w"})


def test_serving_takes_a_file_of_any_training() -> None:
    keys = {
        "use_galore": True,
        "pref_loss": "simpo",
        "use_dora": True,
        "finetuning_type": "full",
        "deepspeed": "z.json",
    }
    assert get_infer_args({**BASE, **keys, "ray_num_workers": 4, "tensor_model_parallel_size": 2})


DEFAULTS: list[dict[str, Any]] = [
    {
        "freeze_vision_tower": True,
        "freeze_multi_modal_projector": True,
        "deepspeed": None,
        "fsdp": "",
        "fsdp_config": {},
    },
    {"pref_beta": 0.1, "pref_loss": "sigmoid", "ray_num_workers": 1, "galore_rank": 16, "double_quantization": True},
    {"finetuning_type": "full", "use_dora": "false", "use_rslora": False, "loraplus_lr_ratio": None},
    {"finetuning_type": "full", "lora_rank": 8, "lora_alpha": 16, "lora_target": "all", "freeze_trainable_layers": 2},
]


@pytest.mark.parametrize("keys", DEFAULTS, ids=str)
def test_defaults_written_out_run(keys: dict[str, Any]) -> None:
    assert train(**keys)


def test_sizes_of_another_tuner_are_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(logging, "_said", set())
    train(finetuning_type="full", lora_rank=64, lora_target="q_proj")
    assert "lora_rank, lora_target: no effect with finetuning_type full" in capsys.readouterr().err
    train(lora_rank=64)
    assert "no effect" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "keys",
    [
        {"remove_unused_columns": False},
        {"eval_accumulation_steps": 4},
        {"upcast_lmhead_output": True},
        {"low_cpu_mem_usage": False},
        {"prediction_loss_only": True},
        {"logging_nan_inf_filter": False},
        {"sortish_sampler": True},
        {"swanlab_run_name": "mine"},
    ],
    ids=str,
)
def test_what_nothing_depends_on_is_said(
    keys: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(logging, "_said", set())
    assert train(**keys)
    assert f"{next(iter(keys))}: " in capsys.readouterr().err


def test_a_plain_configuration_says_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(logging, "_said", set())
    for kind in ("lora", "full", "freeze"):
        train(finetuning_type=kind)
    assert capsys.readouterr().err == ""


def test_a_tracker_that_is_on_takes_its_keys(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(logging, "_said", set())
    for keys in ({"use_swanlab": True}, {"report_to": "swanlab"}):
        assert train(swanlab_run_name="mine", **keys)
    assert "swanlab_run_name" not in capsys.readouterr().err


# What transformers makes without a further package.
PLAIN = {"adamw_torch", "adamw_torch_fused", "adafactor", "sgd", "adagrad", "rmsprop"}


def test_every_optimizer_is_plain_or_has_its_package() -> None:
    assert set(optimizer.PACKAGES) | PLAIN == {name.value for name in OptimizerNames} == set(get_args(OptimizerName))
    assert not PLAIN & set(optimizer.PACKAGES)


@pytest.mark.parametrize("name", sorted(optimizer.PACKAGES))
def test_an_optimizer_whose_package_is_missing_names_it(name: str) -> None:
    module, pip = optimizer.PACKAGES[name]
    keys = (
        {"optim": name, "optim_target_modules": "all-linear"} if name[:6] in ("galore", "apollo") else {"optim": name}
    )
    if find_spec(module) is not None:
        assert train(**keys).training.optim == name
        return
    with pytest.raises(ConfigError, match=f"^optim: {name} needs the package {module}; pip install {pip}$"):
        train(**keys)


def test_a_mistyped_optimizer_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"^optim: expected one of .*, got 'adamw_8bits'; did you mean adamw_8bit"):
        train(optim="adamw_8bits")


def test_the_start_method_of_loading_processes_is_one_of_three() -> None:
    assert train(dataloader_multiprocessing_context="spawn").training.dataloader_multiprocessing_context == "spawn"
    with pytest.raises(ConfigError, match=r"^dataloader_multiprocessing_context: expected one of fork, spawn"):
        train(dataloader_multiprocessing_context="thread")
