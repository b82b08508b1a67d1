# SPDX-License-Identifier: Apache-2.0
"""Set-ups of several processes that their engine cannot run: one line that says why, and none hangs.

What the configuration shows is said before a process is started; the rest by each process before it waits for others.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from machines import Site, last

from llamafactory import launcher
from llamafactory.extras.errors import ConfigError, UsageError

ZERO_3 = {"zero_optimization": {"stage": 3}}
RAY = {"use_ray": True, "ray_num_workers": 2}

# The engine, keys, how the line begins.
BEFORE: list[tuple[str, dict[str, Any], str]] = [
    ("ddp", {"ddp_backend": "mpj"}, "ddp_backend"),
    ("fsdp", {"fsdp": "full_shard", "finetuning_type": "prompt_tuning"}, "fsdp: not with finetuning_type"),
    ("fsdp", {"fsdp": "full_shard", "quantization_bit": 4}, "fsdp: not with quantization_bit: 4"),
    ("fsdp", {"fsdp": "full_shard", "use_galore": True, "finetuning_type": "full"}, "fsdp: not with the optimizer"),
    ("fsdp", {"fsdp": "full_shard", "deepspeed": ZERO_3}, "fsdp and deepspeed: choose one"),
    ("fsdp", {"fsdp": "half_shard"}, "fsdp: "),
    ("fsdp", {"fsdp": "full_shard", "fsdp_config": "gone.yaml"}, "fsdp_config: "),
    ("fsdp", {"fsdp": "full_shard", "fsdp_config": {"fsdp_shards": 2}}, "fsdp_config: "),
    ("deepspeed", {"deepspeed": ZERO_3, "quantization_bit": 4}, "deepspeed: not with quantization_bit: 4"),
    ("deepspeed", {"deepspeed": "gone.json"}, "deepspeed: "),
    ("deepspeed", {"deepspeed": {"zero_optimization": {"stage": 4}}}, "deepspeed: "),
    ("deepspeed", {"deepspeed": {**ZERO_3, "train_micro_batch_size_per_gpu": 7}}, "deepspeed: "),
    ("deepspeed", {"deepspeed": ZERO_3, "stage": "ppo", "reward_model": "r"}, "deepspeed: "),
    ("ray", {**RAY, "FORCE_TORCHRUN": "1"}, "FORCE_TORCHRUN: Ray starts the workers"),
    ("ray", {**RAY, "ray_num_workers": 0}, "ray_num_workers: "),
    ("ray", {**RAY, "placement_strategy": "TIGHT"}, "placement_strategy: "),
    ("context", {"context_parallel_size": 2, "stage": "rm"}, "context_parallel_size: not in stage rm"),
    ("context", {"context_parallel_size": 2, "deepspeed": ZERO_3}, "context_parallel_size: not with deepspeed"),
    ("tensor", {"tensor_parallel_size": 2, "fsdp": "full_shard"}, "tensor_parallel_size"),
    ("tensor", {"tensor_parallel_size": 2, "quantization_bit": 4}, "tensor_parallel_size: not with quantization_bit"),
    ("expert", {"expert_parallel_size": 2, "tensor_parallel_size": 2}, "tensor_parallel_size and expert_parallel_size"),
    ("mca", {"use_mca": True}, "use_mca: True asks for Megatron-core training, whose package megatron-bridge wants"),
    ("kt", {"use_kt": True}, "use_kt: True asks for KTransformers, which trains with a transformers"),
    ("unsloth", {"use_unsloth": True}, "use_unsloth: its loader puts forwards of its own"),
]  # fmt: skip


def variables_of(engine: str) -> dict[str, str]:
    return {} if engine == "ray" else {"FORCE_TORCHRUN": "1", "NPROC_PER_NODE": "2"}


def words_of(keys: dict[str, Any]) -> list[str]:
    return [
        f"{key}={json.dumps(value) if isinstance(value, dict) else value}"
        for key, value in keys.items()
        if not key.isupper()
    ]


@pytest.mark.parametrize(("engine", "keys", "line"), BEFORE, ids=str)
def test_no_process_is_started(
    engine: str, keys: dict[str, Any], line: str, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables_of(engine).items() if "FORCE_TORCHRUN" not in keys else keys.items():
        if name.isupper():
            monkeypatch.setenv(name, value)
    words = ["llamafactory-cli", "train", str(site.folder / "config.yaml"), *words_of(keys)]
    monkeypatch.setattr(sys, "argv", words)
    monkeypatch.setattr(launcher, "run_torchrun", lambda words: pytest.fail("processes are started"))
    with pytest.raises((ConfigError, UsageError)) as caught:
        launcher.launch()
    assert str(caught.value).startswith(line) and "\n" not in str(caught.value)
    assert caught.value.exit_code


# The model has four heads of attention, two of keys, no experts. Keys, what the last line has.
IN_PROCESSES: list[tuple[str, dict[str, Any], str]] = [
    ("fsdp", {"fsdp": "hybrid_shard"}, "fsdp: hybrid_shard shards inside a node"),
    ("fsdp", {"fsdp": "hybrid_shard", "fsdp_config": {"dp_replicate_size": 2}}, "dp_replicate_size: 2 leaves no"),
    (
        "fsdp",
        {"fsdp": "full_shard", "fsdp_config": {"transformer_layer_cls_to_wrap": "Nowhere"}},
        "transformer_layer_cls_to_wrap: Nowhere not found; the model has",
    ),
    ("context", {"context_parallel_size": 3}, "context_parallel_size: 3 processes share each row, and 2 cannot"),
    ("tensor", {"tensor_parallel_size": 3}, "tensor_parallel_size: 3 processes share each layer, and 2 cannot"),
    ("deepspeed", {"deepspeed": ZERO_3}, "deepspeed: needs the package deepspeed; pip install deepspeed"),
    ("ray", RAY, "use_ray: needs the package ray; pip install"),
    ("expert", {"expert_parallel_size": 2}, "expert_parallel_size: transformers has no plan for llama models"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("engine", "keys", "line"), IN_PROCESSES, ids=str)
def test_every_process_ends(engine: str, keys: dict[str, Any], line: str, site: Site, tiny_llama: Path) -> None:
    variables = {"LACKS": engine} | variables_of(engine)
    site.start(variables, [f"model_name_or_path={tiny_llama}", "use_cpu=true", *words_of(keys)])
    [(code, output)] = site.ends()
    assert code == 1
    assert line in last(output) and last(output).startswith("error: "), output
