# SPDX-License-Identifier: Apache-2.0
"""Values, variables and names that files and shells carry from elsewhere: read as meant, or said in one line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from llamafactory.data.sources.dataset_info import NOT_SHIPPED, find_datasets, parse_entry
from llamafactory.extras import logging
from llamafactory.extras.errors import ConfigError
from llamafactory.extras.launching import torchrun_argv
from llamafactory.hparams import TrainArgs, get_infer_args, get_train_args, unbuilt
from llamafactory.hparams.sharding import Sharding, sharding_of
from llamafactory.plugins import resolve

BASE = {"model_name_or_path": "org/tiny", "dataset": "identity"}


@pytest.fixture(autouse=True)
def _nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging, "_said", set())


def train(**keys: Any) -> TrainArgs:
    return get_train_args({**BASE, **keys})


OLD_VALUES = [
    ({"quantization_method": "bitsandbytes"}, "quantization", "quantization_method", "bnb", "is now called bnb"),
    ({"export_device": "gpu"}, "export", "export_device", "auto", "export_device: gpu is now called auto"),
    ({"flash_attn": False}, "model", "flash_attn", "disabled", "flash_attn: False is now called disabled"),
    ({"flash_attn": "eager"}, "model", "flash_attn", "disabled", "flash_attn: eager is now called disabled"),
    ({"flash_attn": "off"}, "model", "flash_attn", "disabled", "flash_attn: off is now called disabled"),
    ({"stage": "dpo", "packing": True}, "data", "packing", None, "packing: left out, stage dpo has no packs"),
    ({"stage": "kto", "packing": "true"}, "data", "packing", None, "packing: left out, stage kto has no packs"),
    ({"ray_scope": "x"}, "training", "run_name", None, "ray_scope: has no effect any more"),
    ({"visual_inputs": True}, "media", "video_fps", 2.0, "visual_inputs: has no effect any more"),
    ({"train_mm_proj_only": False}, "finetuning", "freeze_language_model", False, "train_mm_proj_only: off is the"),
]


@pytest.mark.parametrize(("keys", "section", "key", "value", "line"), OLD_VALUES, ids=str)
def test_an_old_value_is_read_as_it_was_meant(
    keys: dict[str, Any], section: str, key: str, value: Any, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert getattr(getattr(train(**keys), section), key) == value
    assert line in capsys.readouterr().err


def test_packing_stays_where_rows_can_be_packed() -> None:
    assert train(stage="pt", packing=True).data.packing is True
    with pytest.raises(ConfigError, match=r"^neat_packing: only for stage sft or gkd, not dpo"):
        train(stage="dpo", neat_packing=True)


def test_training_the_projector_alone_is_read_as_what_it_asks_for() -> None:
    finetuning = train(train_mm_proj_only=True).finetuning
    assert finetuning.freeze_language_model and finetuning.freeze_vision_tower
    assert not finetuning.freeze_multi_modal_projector


def test_a_key_left_empty_means_its_default(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Null that is written out is something, where a key takes it."""
    file = tmp_path / "c.yaml"
    file.write_text(
        "model_name_or_path: m\ndataset: d\ncutoff_len:\nlearning_rate: # to do\ndo_eval:\nenable_thinking:\n"
        "eval_steps:\nreport_to:\nevaluation_strategy:\n"
    )
    args = get_train_args([str(file)])
    assert (args.data.cutoff_len, args.training.learning_rate, args.data.enable_thinking) == (2048, 5e-5, "default")
    assert (args.training.eval_steps, args.training.report_to, args.training.eval_strategy) == (None, "none", "no")
    assert args.training.do_train and "c.yaml:3: cutoff_len: left empty" in capsys.readouterr().err
    assert get_train_args([str(file), "enable_thinking=null"]).data.enable_thinking is None
    assert get_train_args([str(file), "cutoff_len=64", "learning_rate="]).data.cutoff_len == 64
    with pytest.raises(ConfigError, match=r"^max_steps: expected int, got null"):
        train(max_steps=None)
    assert train(template="").data.template == ""


def test_fsdp_as_a_list_is_read() -> None:
    assert sharding_of(train(fsdp=["full_shard", "auto_wrap"])) == Sharding()
    assert train(fsdp=[]).training.fsdp == []


@pytest.mark.parametrize("command", [get_train_args, get_infer_args])
def test_a_file_of_the_v1_engine_is_read(command: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "v1.yaml"
    file.write_text("model: Qwen/Qwen3-0.6B\npeft_config: {name: lora}\ntrain_dataset: d.json\nmicro_batch_size: 1\n")
    for said in ("0", "1"):
        monkeypatch.setenv("USE_V1", said)
        args = command([str(file)])
        assert (args.model.model_name_or_path, args.finetuning.finetuning_type) == ("Qwen/Qwen3-0.6B", "lora")


def test_a_mistyped_key_is_no_v1_file() -> None:
    with pytest.raises(ConfigError, match=r"^unknown key model; did you mean"):
        get_train_args({"model": "m"})


@pytest.mark.parametrize("name", unbuilt.NO_EFFECT)
def test_a_variable_that_changes_nothing_is_said_once(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(name, "1")
    train()
    get_infer_args(BASE)
    assert capsys.readouterr().err.count(f"{name}: the variable has no effect; {unbuilt.NO_EFFECT[name]}") == 1
    monkeypatch.setattr(logging, "_said", set())
    monkeypatch.setenv(name, "0")
    train()
    assert name not in capsys.readouterr().err


# The variables that LLaMA-Factory 0.9.5 reads, and those that it documents.
VARIABLES = """API_HOST API_PORT API_KEY API_MODEL_NAME API_VERBOSE FASTAPI_ROOT_PATH MAX_CONCURRENT ALLOW_LOCAL_FILES
    SAFE_MEDIA_PATH DISABLE_VERSION_CHECK FORCE_CHECK_IMPORTS ALLOW_EXTRA_ARGS ALLOW_EXTRA_KEYS LLAMAFACTORY_VERBOSITY
    USE_MODELSCOPE_HUB USE_OPENMIND_HUB USE_RAY USE_KT USE_MCA USE_MEGATRON_BRIDGE USE_V1 RECORD_VRAM OPTIM_TORCH
    NPU_JIT_COMPILE FORCE_TORCHRUN NNODES NODE_RANK NPROC_PER_NODE MASTER_ADDR MASTER_PORT MAX_RESTARTS RDZV_ID
    MIN_NNODES MAX_NNODES RANK LOCAL_RANK WORLD_SIZE ACCELERATE_USE_FSDP FSDP_VERSION FSDP_ACTIVATION_CHECKPOINTING
    ACCELERATE_MIXED_PRECISION FP8_BACKEND FP8_ENABLE_FSDP_FLOAT8_ALL_GATHER WANDB_PROJECT WANDB_DISABLED
    SWANLAB_API_KEY IMAGE_PLACEHOLDER VIDEO_PLACEHOLDER AUDIO_PLACEHOLDER DOWNSAMPLE_MODE GRADIO_SHARE GRADIO_IPV6
    GRADIO_SERVER_NAME GRADIO_SERVER_PORT GRADIO_ROOT_PATH DEMO_MODEL DEMO_TEMPLATE DEMO_BACKEND LLAMABOARD_ENABLED
    LLAMABOARD_WORKDIR RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES RAY_EXPERIMENTAL_NOSET_ASCEND_RT_VISIBLE_DEVICES
    LLAMAFACTORY_MUON_DIAG FORCE_V1_CPU HF_REVISION""".split()  # noqa: SIM905


@pytest.mark.parametrize("name", VARIABLES)
def test_every_variable_that_users_know_is_read_or_said(name: str) -> None:
    source = Path(unbuilt.__file__).parents[1]
    texts = "\n".join(path.read_text("utf-8") for path in source.rglob("*.py"))
    assert re.search(rf'"{name}"', texts), f"{name} is silently ignored"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MASTER_PORT", "99999999"),
        ("MASTER_PORT", "0"),
        ("MASTER_PORT", "x"),
        ("NNODES", "-1"),
        ("NNODES", "²"),
        ("NODE_RANK", "nan"),
        ("NPROC_PER_NODE", "10000000"),
        ("NPROC_PER_NODE", "1.5"),
    ],
)
def test_a_launch_variable_out_of_range_is_one_line(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{name}: expected a whole number from [01] to \d+, got '{value}'$"):
        torchrun_argv(["train"], {"NPROC_PER_NODE": "1", name: value})


@pytest.mark.parametrize("name", ["RANK", "LOCAL_RANK", "WORLD_SIZE", "TORCHELASTIC_RESTART_COUNT"])
def test_what_a_launcher_says_is_a_number(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from llamafactory.extras.environment import rank_number

    monkeypatch.setenv(name, "-1")
    with pytest.raises(ConfigError, match=f"^{name}: expected a whole number from 0 to"):
        rank_number(name)
    monkeypatch.setenv(name, "3")
    assert rank_number(name) == 3


@pytest.mark.parametrize("key", ["", " ", "\t"])
def test_a_blank_key_opens_no_address(key: str) -> None:
    from llamafactory.api.settings import ServerSettings

    with pytest.raises(ConfigError, match=r"^API_HOST: 0\.0\.0\.0 can be reached from other machines and needs an API"):
        ServerSettings.from_environment({"API_HOST": "0.0.0.0", "API_KEY": key})
    assert ServerSettings.from_environment({"API_KEY": key}).key is None


def test_data_sets_of_the_old_list_resolve_or_have_their_reason() -> None:
    (demo,) = find_datasets(["glaive_toolcall_en_demo"], {})
    assert (demo.place, demo.location, demo.num_samples) == ("hf", "llamafactory/glaive_toolcall_en", 300)
    assert find_datasets(["glaive_toolcall_zh_demo"], {})
    for name, reason in NOT_SHIPPED.items():
        with pytest.raises(ConfigError, match=re.escape(reason)):
            find_datasets([name], {})
        assert find_datasets([name], {name: {"file_name": "own.json"}})
    assert len(NOT_SHIPPED) == 7


def test_a_checksum_in_the_listing_is_no_hindrance(capsys: pytest.CaptureFixture[str]) -> None:
    assert parse_entry("a", {"file_name": "a.json", "file_sha1": "00"}, "dataset_info.json", ".").location == "a.json"
    assert "file_sha1 is not compared" in capsys.readouterr().err


def test_role_and_content_among_the_columns_are_the_keys_of_a_turn() -> None:
    columns = {"messages": "chat", "role": "who", "content": "says"}
    entry: dict[str, Any] = {"file_name": "a.json", "formatting": "sharegpt", "columns": columns}
    row = {"chat": [{"who": "human", "says": "q"}, {"who": "gpt", "says": "a"}]}
    attr = parse_entry("a", entry, "dataset_info.json", ".")
    found = resolve("formats", attr.formatting)(row, attr)
    assert [(message.role, message.text) for message in found.messages] == [("user", "q"), ("assistant", "a")]
    tagged = parse_entry("a", entry | {"tags": {"role_tag": "by"}}, "dataset_info.json", ".")
    assert (tagged.tags.role_tag, tagged.tags.content_tag) == ("by", "says")
    with pytest.raises(ConfigError, match="unknown key 'role'"):
        parse_entry("a", {"file_name": "a.json", "columns": {"prompt": "q", "role": "r"}}, "dataset_info.json", ".")


@pytest.mark.parametrize("kind", ["q4_k_m", "Q5_K_S", "q6_k", "iq3_xs", "q9_k"])
def test_types_of_llama_quantize_name_the_way(kind: str) -> None:
    from llamafactory.export.gguf.writer import check_types

    with pytest.raises(ConfigError, match=f"^export_gguf: unknown type '{kind.lower()}'; known: f") as caught:
        check_types([kind])
    way = f"export f16 and run llama.cpp's `llama-quantize FILE-f16.gguf FILE-{kind.lower()}.gguf {kind.upper()}`"
    assert (way in str(caught.value)) == (kind != "q9_k")


REWARDS = [
    ({}, "reward_model: missing, stage ppo needs it or reward_funcs"),
    ({"reward_model": "saves/x/lora/reward"}, "reward_model: saves/x/lora/reward does not exist"),
    ({"reward_model": "./nowhere", "reward_model_type": "full"}, "reward_model: ./nowhere does not exist"),
    ({"reward_model": "{folder}"}, "reward_model: {folder} has no adapter_config.json"),
    ({"reward_model": "{folder}", "reward_model_type": "full"}, "reward_model: {folder} has no config.json"),
    (
        {"reward_model": "host:80", "reward_model_type": "api"},
        "reward_model: expected http://… or https://…, got 'host",
    ),
    ({"reward_funcs": "exact_match", "reward_weights": "nan"}, "reward_weights: expected a finite number, got nan"),
    ({"reward_funcs": "exact_match", "reward_weights": "x"}, "reward_weights: expected float, got 'x'"),
    ({"reward_funcs": "exact_match", "reward_weights": "1,2"}, "reward_weights: 2 given for 1 rewards (exact_match)"),
]


@pytest.mark.parametrize(("keys", "line"), REWARDS, ids=str)
def test_a_reward_that_cannot_be_had_is_said_first(keys: dict[str, str], line: str, tmp_path: Path) -> None:
    keys = {key: value.format(folder=tmp_path) for key, value in keys.items()}
    with pytest.raises(ConfigError) as caught:
        train(stage="ppo", **keys)
    assert str(caught.value).startswith(line.format(folder=tmp_path))
