# SPDX-License-Identifier: Apache-2.0
"""How a run is sharded, in the words of transformers' and accelerate's users; what cannot be is one line."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from llamafactory.extras.errors import ConfigError
from llamafactory.hparams import TrainArgs, get_train_args
from llamafactory.hparams.sharding import Sharding, from_environment, sharding_of

BASE = {"model_name_or_path": "org/tiny", "dataset": "identity"}
ROOT = Path(__file__).parents[2]


def train(**keys: Any) -> TrainArgs:
    return get_train_args({**BASE, **keys})


READ = [
    ({}, None),
    ({"fsdp": False}, None),
    ({"fsdp": True}, Sharding()),
    ({"fsdp": "full_shard auto_wrap"}, Sharding()),
    ({"fsdp": "shard_grad_op offload"}, Sharding(reshard=False, offload=True)),
    ({"fsdp": "hybrid_shard"}, Sharding(replicas=0)),
    ({"fsdp": "hybrid_shard", "fsdp_config": {"dp_replicate_size": 2}}, Sharding(replicas=2)),
    ({"fsdp": True, "fsdp_config": {"version": 2, "reshard_after_forward": False}}, Sharding(reshard=False)),
    ({"fsdp_config": {"fsdp_sharding_strategy": 2, "fsdp_version": 1}}, Sharding(reshard=False)),
    ({"fsdp_config": {"fsdp_sharding_strategy": "HYBRID_SHARD"}}, Sharding(replicas=0)),
    (
        {"fsdp_config": {"transformer_layer_cls_to_wrap": ["A", "B"], "cpu_offload": "true"}},
        Sharding(layers=("A", "B"), offload=True),
    ),
    ({"fsdp_config": {"fsdp_transformer_cls_names_to_wrap": "A,B"}}, Sharding(layers=("A", "B"))),
    ({"fsdp_config": {"auto_wrap_policy": "NO_WRAP"}}, Sharding(wraps=False)),
    ({"fsdp_config": {"activation_checkpointing": True}}, Sharding(checkpointing=True)),
]


@pytest.mark.parametrize(("keys", "expected"), READ, ids=str)
def test_the_words_of_users(keys: dict[str, Any], expected: Sharding | None) -> None:
    assert sharding_of(train(**keys)) == expected


def test_a_file_of_accelerate_and_what_its_launcher_makes_of_it_are_read_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """accelerate's own launcher puts the file into variables."""
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import prepare_multi_gpu_env

    file = ROOT / "examples" / "accelerate" / "fsdp_config.yaml"
    words = ["--config_file", str(file), "--num_processes", "2", "--cpu", "train.py"]
    args, _, _ = _validate_launch_command(launch_command_parser().parse_args(words))
    args.use_fsdp = True  # --cpu, which keeps it from looking for accelerators, takes it away
    said = prepare_multi_gpu_env(args)
    assert said["ACCELERATE_USE_FSDP"] == "true"
    for name, value in said.items():
        if name.startswith(("FSDP_", "ACCELERATE_USE_FSDP")):
            monkeypatch.setenv(name, value)
    launched = sharding_of(train())
    for name in list(os.environ):
        if name.startswith(("FSDP_", "ACCELERATE_USE_FSDP")):
            monkeypatch.delenv(name)
    assert launched is not None and launched == sharding_of(train(fsdp_config=str(file)))
    assert yaml.safe_load(file.read_text("utf-8"))["distributed_type"] == "FSDP"


def test_the_older_engine_of_the_launcher() -> None:
    said = {
        "ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "1", "FSDP_SHARDING_STRATEGY": "SHARD_GRAD_OP",
        "FSDP_RESHARD_AFTER_FORWARD": "true", "FSDP_OFFLOAD_PARAMS": "true", "FSDP_MIN_NUM_PARAMS": "100000000",
    }  # fmt: skip
    assert sharding_of(train(**from_environment(said))) == Sharding(reshard=False, offload=True)


REFUSED = [
    ({"fsdp": "full_shrad"}, "fsdp: full_shrad; expected full_shard"),
    ({"fsdp": "full_shard hybrid_shard"}, "fsdp: full_shard and hybrid_shard: choose one"),
    ({"fsdp": "no_shard"}, "fsdp: no_shard is plain data parallelism"),
    ({"fsdp": False, "fsdp_config": {"version": 2}}, "fsdp: false contradicts fsdp_config"),
    ({"fsdp_config": {"reshard": True}}, "fsdp_config: unknown key reshard; expected version"),
    ({"fsdp_config": {"version": 3}}, "fsdp_config: version: 3; expected 1 or 2"),
    (
        {"fsdp": "full_shard", "fsdp_config": {"reshard_after_forward": False}},
        "fsdp_config: fsdp: full_shard and reshard_after_forward: false contradict each other",
    ),
    ({"fsdp_config": {"auto_wrap_policy": "SIZE_BASED_WRAP"}}, "fsdp_config: auto_wrap_policy: SIZE_BASED_WRAP"),
    ({"fsdp_config": {"xla": True}}, "fsdp_config: xla: True asks for what is not built"),
    ({"fsdp_config": {"dp_replicate_size": 0}}, "fsdp_config: dp_replicate_size: 0, expected 1 or more"),
    ({"fsdp_config": {"cpu_offload": "maybe"}}, "fsdp_config: cpu_offload: "),
    ({"fsdp_config": "/nowhere.yaml"}, "fsdp_config: /nowhere.yaml"),
    ({"fsdp": True, "finetuning_type": "oft"}, "fsdp: not with finetuning_type oft; use full, freeze, lora"),
    ({"fsdp": True, "quantization_bit": 4}, "fsdp: not with quantization_bit: 4"),
    ({"fsdp": True, "optim": "adafactor"}, "fsdp: not with the optimizer adafactor, which looks at whole weights"),
    ({"fsdp": True, "finetuning_type": "full", "use_galore": True, "pure_bf16": True}, "fsdp: not with the optimizer"),
    ({"fsdp": True, "pissa_init": True}, "fsdp: not with pissa_init, which cannot be sharded"),
    ({"fsdp": True, "use_dora": True}, "fsdp: not with use_dora"),
    (
        {"fsdp_config": {"activation_checkpointing": True}, "activation_checkpointing": False},
        "fsdp_config: activation_checkpointing: true contradicts the key activation_checkpointing",
    ),
]


@pytest.mark.parametrize(("keys", "line"), REFUSED, ids=str)
def test_what_cannot_be_is_one_line(keys: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        train(**keys)
    assert str(caught.value).startswith(line) and "\n" not in str(caught.value)


def test_one_process_shards_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from llamafactory.train.training_arguments import transformers_arguments

    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with pytest.raises(ConfigError, match=r"^fsdp: shards a model over several processes, and this is one"):
        transformers_arguments(train(fsdp=True, output_dir=str(tmp_path)))
