# SPDX-License-Identifier: Apache-2.0
"""Keys of parts that are not built: one line each; and files that carry such keys with their defaults go on running."""

from __future__ import annotations

import re
from typing import Any

import pytest

from llamafactory.extras import logging
from llamafactory.extras.errors import ConfigError, UsageError
from llamafactory.hparams import TrainArgs, get_infer_args, get_train_args, unbuilt
from llamafactory.hparams.args import SHARED_SECTIONS, TRAINING_SECTIONS
from llamafactory.hparams.schema import keys_of

BASE = {"model_name_or_path": "org/tiny", "dataset": "identity"}
SECTIONS = {**SHARED_SECTIONS, **TRAINING_SECTIONS}


def train(**keys: Any) -> TrainArgs:
    return get_train_args({**BASE, **keys})


REFUSED = [
    ({"parallelism_config": {"dp_shard_size": 2}}, "parallel dimensions of a model"),
    ({"accelerator_config": {"split_batches": True}}, "Accelerate's own handling of batches"),
    ({"average_tokens_across_devices": False}, "a loss that each device weighs by itself"),
    ({"ignore_pad_token_for_loss": False}, "a loss on padding"),
    ({"bf16_full_eval": True}, "another number format in evaluation"),
    ({"fp16_full_eval": True}, "another number format in evaluation"),
    ({"prediction_loss_only": True}, "evaluation without metrics"),
    ({"eval_do_concat_batches": False}, "predictions that are kept batch by batch"),
    ({"eval_use_gather_object": True}, "predictions that are gathered as objects"),
    ({"sortish_sampler": True}, "evaluation rows sorted by length"),
    ({"generation_config": "here"}, "generation settings from a file"),
    ({"dataloader_in_order": False}, "batches in the order they get ready"),
    ({"label_names": ["answers"]}, "labels from other columns"),
    ({"length_column_name": "size"}, "lengths from a column"),
    ({"low_cpu_mem_usage": False}, "weights that are held twice while loading"),
    ({"download_mode": "force_redownload"}, "downloading benchmarks anew"),
    ({"hyper_parallel_args": "h.json"}, "HyperParallel training"),
    ({"hyper_parallel_cp_size": 2}, "HyperParallel training"),
    ({"kt_config": "c.yaml"}, "KTransformers"),
    # Sections of one part each
    ({"kt_weight_path": "w"}, "KTransformers"),
    ({"fp8_backend": "te"}, "FP8 by Transformer Engine"),
    ({"tensor_model_parallel_size": 2}, "Megatron Bridge training"),
    ({"use_distributed_optimizer": False}, "Megatron Bridge training"),
    ({"mixed_precision": "fp16"}, "Megatron Bridge training"),
]


@pytest.mark.parametrize(("keys", "part"), REFUSED, ids=str)
def test_a_part_that_is_not_built_is_refused_in_one_line(keys: dict[str, Any], part: str) -> None:
    [(key, value)] = keys.items()
    line = f"{key}: {value} asks for {part}, {unbuilt.why_not(part)}"
    with pytest.raises(UsageError, match=f"^{re.escape(line)}$") as caught:
        train(**keys)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("keys", [{"low_cpu_mem_usage": False}, {"kt_weight_path": "w"}])
def test_what_loads_a_model_otherwise_is_refused_in_serving_too(keys: dict[str, Any]) -> None:
    with pytest.raises(
        UsageError, match=r"asks for .*, which (is not built yet in this version|trains with .* own making)$"
    ):
        get_infer_args({**BASE, **keys})


def test_serving_takes_a_file_of_any_training() -> None:
    keys = {"deepspeed": "z.json", "use_galore": True, "asft_alpha": 0.5, "ray_num_workers": 4, "mixed_precision": "x"}
    assert get_infer_args({**BASE, **keys})


@pytest.mark.parametrize("name", ["ACCELERATE_USE_PARALLELISM_CONFIG"])
def test_what_accelerate_launch_asks_for(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "false")
    assert train()
    monkeypatch.setenv(name, "true")
    with pytest.raises(UsageError, match=f"^{name}: asks for .*, which is not built yet in this version$"):
        train()
    assert get_infer_args(BASE)


def test_every_default_can_be_written_out() -> None:
    for section in SECTIONS.values():
        for key in keys_of(section).values():
            if key.name not in {"do_train", "predict_with_generate"} and key.default is not None:
                assert train(**{key.name: key.default}), key.name


@pytest.mark.parametrize(
    "keys", [{"deepspeed": ""}, {"fsdp": ""}, {"fsdp": False}, {"fsdp_config": {}}, {"label_names": []}], ids=str
)
def test_nothing_is_no_request(keys: dict[str, Any]) -> None:
    assert train(**keys)


SAID = [
    {"batch_eval_metrics": True},
    {"enable_jit_checkpoint": True},
    {"eval_accumulation_steps": 4},
    {"include_for_metrics": ["inputs"]},
    {"local_rank": 0},
    {"logging_nan_inf_filter": False},
    {"master_addr": "10.0.0.1"},
    {"master_port": "1234"},
    {"remove_unused_columns": False},
    {"restore_callback_states_from_checkpoint": True},
    {"upcast_lmhead_output": True},
]


@pytest.mark.parametrize("keys", SAID, ids=str)
def test_what_is_done_anyway_is_said(
    keys: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(logging, "_said", set())
    [key] = keys
    args = train(**keys)
    assert key in args.keys and f"{key}: makes no difference; {unbuilt.DONE_ANYWAY[key]}" in capsys.readouterr().err


def test_all_that_is_done_anyway_is_tested() -> None:
    assert {key for keys in SAID for key in keys} == set(unbuilt.DONE_ANYWAY)


def test_a_plain_configuration_says_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(logging, "_said", set())
    for kind in ("lora", "full", "freeze"):
        train(finetuning_type=kind)
    assert capsys.readouterr().err == ""


def test_the_start_method_of_loading_processes_is_one_of_three() -> None:
    assert train(dataloader_multiprocessing_context="spawn").training.dataloader_multiprocessing_context == "spawn"
    with pytest.raises(
        ConfigError, match=r"^dataloader_multiprocessing_context: expected one of fork, spawn, forkserver"
    ):
        train(dataloader_multiprocessing_context="thread")
