# SPDX-License-Identifier: Apache-2.0
"""A model that is cut into parts trains as one process trains it: loss, gradient norm, weights."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from llamafactory.extras.errors import ConfigError

from .conftest import Keys
from .pairs import judged_set, pair_set
from .rollouts import GRPO, PPO, prompt_set
from .running import curve, log_of, train, train_elsewhere, weights_of

EXAMPLE = Path(__file__).parents[2] / "examples" / "accelerate" / "fsdp_config.yaml"
HYBRID = {"fsdp": "hybrid_shard", "fsdp_config": {"dp_replicate_size": 2}}
FULL = {"fsdp": "full_shard auto_wrap"}


def assert_same(one: Path, other: Path) -> None:
    """Equal within 1e-5, in float32."""
    first, second = curve(one), curve(other)
    assert [step for step, *_ in first] == [step for step, *_ in second]
    for (_, *ours), (_, *theirs) in zip(first, second, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5, abs=1e-5)
    theirs = weights_of(other)
    assert theirs.keys() == weights_of(one).keys()
    for name, weight in weights_of(one).items():
        torch.testing.assert_close(weight, theirs[name], rtol=1e-5, atol=1e-5, msg=name)


def assert_cut(path: Path, ranks: int, shards: int) -> None:
    """Every rank holds one part in ``shards`` of the weights and of the optimizer's state, within rounding."""
    for rank in range(ranks):
        found = json.loads(path.with_suffix(f".{rank}").read_text())
        assert found["cut"]
        for held, whole in zip(found["held"], found["whole"], strict=True):
            assert 0 < held < 1.1 * whole / shards


def run(given: dict[str, Any], ranks: int, place: Path, **env: str) -> Path:
    """Train on ranks with the batch of one process."""
    batch = given["per_device_train_batch_size"] // ranks
    result = train_elsewhere(
        given | {"output_dir": str(place), "per_device_train_batch_size": batch}, ranks=ranks, **env
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return place


def _cells() -> list[Any]:
    """One cell is always tried."""
    return [
        pytest.param(*cell, marks=[] if cell == ("full_shard", "lora", "sft") else pytest.mark.slow, id="-".join(cell))
        for cell in ((s, k, t) for s in ("full_shard", "hybrid") for k in ("full", "lora") for t in ("sft", "dpo"))
    ]


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_student_and_its_teacher_in_parts(keys: Keys, tmp_path: Path, make_tiny_model: Any, share: float) -> None:
    teacher = str(make_tiny_model("qwen3", hidden_size=32, initializer_range=0.3, vocab_size=416))
    given = keys(
        stage="gkd", finetuning_type="full", teacher_model_name_or_path=teacher, gkd_lambda=share, max_new_tokens=4,
        learning_rate=2e-4,
    )  # fmt: skip
    one = train(given | {"output_dir": str(tmp_path / "one")})
    assert_same(one, run(given | FULL, 2, tmp_path / "parts"))


@pytest.mark.parametrize(("sharding", "kind", "stage"), _cells())
def test_parts_train_as_one_process(keys: Keys, tmp_path: Path, sharding: str, kind: str, stage: str) -> None:
    data: dict[str, Any] = {"packing": True} if stage == "sft" else pair_set(tmp_path)
    given = keys(finetuning_type=kind, stage=stage, learning_rate=2e-4, **data)
    one = train(given | {"output_dir": str(tmp_path / "one")})
    ranks, words = (2, FULL) if sharding == "full_shard" else (4, HYBRID)
    other = run(given | words, ranks, tmp_path / "parts", PARTS=str(tmp_path / "held"))
    assert_same(one, other)
    assert_cut(tmp_path / "held", ranks, 2)


def _stage_keys(stage: str, folder: Path) -> dict[str, Any]:
    if stage in ("grpo", "ppo"):
        return {**(GRPO if stage == "grpo" else PPO), **prompt_set(folder)}
    return {"rm": pair_set, "kto": judged_set}.get(stage, lambda _: {})(folder)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["pt", "rm", "kto", "grpo", "ppo"])
def test_every_stage(keys: Keys, tmp_path: Path, stage: str) -> None:
    more = {"finetuning_type": "lora", "max_steps": 3, "learning_rate": 2e-4}
    given = keys(**{"stage": stage, **_stage_keys(stage, tmp_path), **more})
    assert_same(train(given | {"output_dir": str(tmp_path / "one")}), run(given | FULL, 2, tmp_path / "parts"))


VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any], int]] = {
    "kept after forward": ({}, {"fsdp": "shard_grad_op"}, 2),
    "host memory": ({}, {"fsdp": "full_shard offload"}, 2),
    "one group": ({}, {"fsdp_config": {"auto_wrap_policy": "NO_WRAP"}}, 2),
    "freeze": ({"finetuning_type": "freeze", "freeze_trainable_layers": 1}, FULL, 2),
    "loraplus": ({"loraplus_lr_ratio": 4.0}, FULL, 2),
    "whole modules": ({"additional_target": "norm,lm_head"}, FULL, 2),
    "new tokens": ({"add_tokens": "<a>,<b>", "resize_vocab": True}, FULL, 2),
    "accumulation": ({"finetuning_type": "full", "gradient_accumulation_steps": 3}, HYBRID, 4),
    "sgd": ({"finetuning_type": "full", "optim": "sgd"}, FULL, 2),
    "rmsprop": ({"finetuning_type": "full", "optim": "rmsprop"}, FULL, 2),
    "adagrad": ({"finetuning_type": "full", "optim": "adagrad"}, FULL, 2),
    "recomputed": ({"finetuning_type": "full"}, {"fsdp_config": {"activation_checkpointing": True}}, 2),
    "evaluation": (
        {"val_size": 5, "do_train": True, "do_eval": True, "predict_with_generate": True, "max_new_tokens": 4}, FULL, 2
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_what_goes_with_it(keys: Keys, tmp_path: Path, name: str) -> None:
    more, words, ranks = VARIANTS[name]
    given = keys(**{"max_steps": 3, "learning_rate": 2e-4, **more})
    one, other = train(given | {"output_dir": str(tmp_path / "one")}), run(given | words, ranks, tmp_path / "parts")
    assert_same(one, other)
    if "val_size" in more:
        ours, theirs = ([row["eval_loss"] for row in log_of(run) if "eval_loss" in row] for run in (one, other))
        assert ours and ours == pytest.approx(theirs, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["full", "lora"])
def test_experts_whose_file_has_them_one_by_one(keys: Keys, make_tiny_model: Any, tmp_path: Path, kind: str) -> None:
    model = make_tiny_model("qwen3_moe", num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24)
    given = keys(model_name_or_path=str(model), finetuning_type=kind, max_steps=3, learning_rate=2e-4)
    assert_same(train(given | {"output_dir": str(tmp_path / "one")}), run(given | FULL, 2, tmp_path / "parts"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["full", "lora"])
def test_killed_and_resumed_on_other_numbers_of_ranks(keys: Keys, tmp_path: Path, kind: str) -> None:
    """Four ranks, kill -9, two ranks, kill -9, four ranks: the run of one process, rows in the same order."""
    given = keys(finetuning_type=kind, max_steps=10, learning_rate=2e-4, save_strategy="steps", save_steps=2)
    one = train(given | {"output_dir": str(tmp_path / "one")})
    for ranks, kill in ((4, "5"), (2, "7")):
        batch = {"per_device_train_batch_size": 4 // ranks, "output_dir": str(tmp_path / "parts")}
        result = train_elsewhere(given | FULL | batch, ranks=ranks, restarts=0, KILL_AT=kill, KILL_RANK="1")
        assert result.returncode
    other = run(given | FULL, 4, tmp_path / "parts")
    assert_same(one, other)
    saved = other / "checkpoint-10"
    assert not [*saved.rglob("optimizer.pt"), *saved.rglob(".metadata"), *saved.rglob("*.distcp")]
    if kind == "lora":
        size = (saved / "adapter_model.safetensors").stat().st_size
        weights = [path.stat().st_size for path in saved.rglob("*.safetensors")]
        assert sum(weights) < 4 * size


@pytest.mark.slow
def test_accelerate_launches_it(keys: Keys, tmp_path: Path) -> None:
    """The example file says bf16, which is for the run's own keys to say."""
    given = keys(max_steps=3, learning_rate=2e-4, output_dir=str(tmp_path / "one"))
    one = train(given)
    file = tmp_path / "run.yaml"
    parts = {"output_dir": str(tmp_path / "parts"), "per_device_train_batch_size": 2, "use_cpu": True}
    file.write_text(json.dumps(given | parts))
    launcher = ["-m", "accelerate.commands.accelerate_cli", "launch", "--config_file", str(EXAMPLE)]
    words = [sys.executable, *launcher, "-m", "llamafactory", "train", str(file)]
    done = subprocess.run(
        words, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=180
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert_same(one, tmp_path / "parts")


@pytest.mark.slow
def test_a_checkpoint_in_parts_is_exported(keys: Keys, tmp_path: Path) -> None:
    """Bit for bit what the run itself leaves."""
    from safetensors.torch import load_file

    from llamafactory.train.tuner import export_model

    given = keys(finetuning_type="full", max_steps=2, save_strategy="steps", save_steps=2)
    left = load_file(run(given | FULL, 2, tmp_path / "parts") / "model.safetensors")
    place = {"model_name_or_path": str(tmp_path / "parts" / "checkpoint-2"), "export_dir": str(tmp_path / "whole")}
    export_model({**place, "template": "chatml", "finetuning_type": "full"})
    exported = load_file(tmp_path / "whole" / "model.safetensors")
    assert exported.keys() == left.keys()
    assert all(torch.equal(exported[name], left[name]) for name in left)


@pytest.mark.slow
def test_the_state_of_another_kind_of_run_is_refused(keys: Keys, tmp_path: Path) -> None:
    given = keys(max_steps=2, save_strategy="steps", save_steps=1)
    run(given | FULL, 2, tmp_path / "run")
    with pytest.raises(ConfigError, match=r"was saved by a run with fsdp, and its state is only read with it"):
        train(given | {"max_steps": 3, "output_dir": str(tmp_path / "run")})
