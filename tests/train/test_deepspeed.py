# SPDX-License-Identifier: Apache-2.0
"""ZeRO trains as one process trains: loss, gradient norm, weights; checkpoints go on with other numbers of ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from media_models import build
from transformers import AutoModelForCausalLM

from .conftest import Keys
from .pairs import judged_set, pair_set
from .rollouts import GRPO, PPO, prompt_set
from .running import log_of, train, train_elsewhere
from .test_fsdp import assert_same, run
from .test_media_runs import media_set, run_keys

pytestmark = pytest.mark.deepspeed

EXAMPLES = Path(__file__).parents[2] / "examples" / "deepspeed"
FROZEN = {"freeze_vision_tower": True, "freeze_multi_modal_projector": True}


def zero(stage: int, **more: Any) -> dict[str, Any]:
    """The file of a run, as LLaMA-Factory's and transformers' users write it."""
    settings = {
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "zero_allow_untested_optimizer": True,
        "fp16": {"enabled": "auto", "loss_scale": 0},
        "bf16": {"enabled": "auto"},
        "zero_optimization": {"stage": stage, "overlap_comm": False, "contiguous_gradients": True, **more},
    }
    return {"deepspeed": settings}


@pytest.mark.parametrize("data", ["sft", "dpo"])
@pytest.mark.parametrize("kind", ["full", "lora"])
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_trains_as_one_process(keys: Keys, tmp_path: Path, stage: int, kind: str, data: str) -> None:
    more: dict[str, Any] = {"packing": True} if data == "sft" else pair_set(tmp_path)
    given = keys(finetuning_type=kind, stage=data, learning_rate=2e-4, **more)
    assert_same(train(given | {"output_dir": str(tmp_path / "one")}), run(given | zero(stage), 2, tmp_path / "parts"))


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.json")), ids=lambda path: path.stem)
def test_an_example_runs(keys: Keys, tmp_path: Path, file: Path) -> None:
    """Two steps with the file as it stands."""
    run(keys(finetuning_type="full", max_steps=2, deepspeed=str(file)), 2, tmp_path / "parts")
    assert [row["current_steps"] for row in log_of(tmp_path / "parts") if "loss" in row] == [1, 2]


@pytest.mark.parametrize("stage", ["pt", "rm", "kto", "grpo", "ppo"])
def test_every_stage(keys: Keys, tmp_path: Path, stage: str) -> None:
    data = {"rm": pair_set, "kto": judged_set}.get(stage, lambda _: {})
    rolled = {"grpo": GRPO, "ppo": PPO}.get(stage, {})
    more = {**rolled, **(prompt_set(tmp_path) if rolled else data(tmp_path))}
    given = keys(**{"stage": stage, **more, "finetuning_type": "lora", "max_steps": 3, "learning_rate": 2e-4})
    level = 2 if rolled else 3
    assert_same(train(given | {"output_dir": str(tmp_path / "one")}), run(given | zero(level), 2, tmp_path / "parts"))


VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "accumulation 1": ({"finetuning_type": "full", "gradient_accumulation_steps": 3}, zero(1)),
    "accumulation 2": ({"finetuning_type": "full", "gradient_accumulation_steps": 3}, zero(2)),
    "accumulation 3": ({"finetuning_type": "full", "gradient_accumulation_steps": 3}, zero(3)),
    "host memory 2": ({"finetuning_type": "full"}, zero(2, offload_optimizer={"device": "cpu"})),
    "host memory 3": (
        {"finetuning_type": "full"},
        zero(3, offload_optimizer={"device": "cpu"}, offload_param={"device": "cpu"}),
    ),
    "every weight cut": ({"finetuning_type": "full"}, zero(3, stage3_param_persistence_threshold=0)),
    "freeze": ({"finetuning_type": "freeze", "freeze_trainable_layers": 1}, zero(2)),
    "no clipping": ({"max_grad_norm": 0.0}, zero(2)),
    "loraplus": ({"loraplus_lr_ratio": 4.0}, zero(2)),
    "whole modules": ({"additional_target": "norm,lm_head"}, zero(3)),
    "new tokens": ({"add_tokens": "<a>,<b>", "resize_vocab": True}, zero(3)),
    "sgd": ({"finetuning_type": "full", "optim": "sgd"}, zero(2)),
    "recomputed": ({"finetuning_type": "full", "activation_checkpointing": True}, zero(3)),
    "evaluation": ({"val_size": 5, "do_train": True, "do_eval": True}, zero(3)),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_what_goes_with_it(keys: Keys, tmp_path: Path, name: str) -> None:
    more, words = VARIANTS[name]
    given = keys(**{"max_steps": 3, "learning_rate": 2e-4, **more})
    one, other = train(given | {"output_dir": str(tmp_path / "one")}), run(given | words, 2, tmp_path / "parts")
    assert_same(one, other)
    if "val_size" in more:
        ours, theirs = ([row["eval_loss"] for row in log_of(run) if "eval_loss" in row] for run in (one, other))
        assert ours and ours == pytest.approx(theirs, rel=1e-5)


@pytest.mark.parametrize("stage", [1, 2, 3])
@pytest.mark.parametrize("kind", ["full", "lora"])
def test_killed_and_resumed_on_other_numbers_of_ranks(keys: Keys, tmp_path: Path, kind: str, stage: int) -> None:
    """Four ranks, kill -9, two ranks, kill -9, four ranks: the run of one process, rows in the same order."""
    given = keys(finetuning_type=kind, max_steps=10, learning_rate=2e-4, save_strategy="steps", save_steps=2)
    one = train(given | {"output_dir": str(tmp_path / "one")})
    for ranks, kill in ((4, "5"), (2, "7")):
        batch = {"per_device_train_batch_size": 4 // ranks, "output_dir": str(tmp_path / "parts")}
        result = train_elsewhere(given | zero(stage) | batch, ranks=ranks, restarts=0, KILL_AT=kill, KILL_RANK="1")
        assert result.returncode
    other = run(given | zero(stage), 4, tmp_path / "parts")
    assert_same(one, other)
    held = [path for path in other.rglob("*") if path.suffix in (".pt", ".pth", ".pkl", ".bin")]
    assert {path.name for path in held} <= {"scheduler.pt", *(f"rng_state_{n}.pth" for n in range(4))}
    if kind == "full":
        model = AutoModelForCausalLM.from_pretrained(other / "checkpoint-10")
        assert model.num_parameters()


@pytest.mark.parametrize("kind", ["full", "lora"])
@pytest.mark.parametrize("stage", [1, 2])
def test_pictures_on_one_rank_alone_killed_and_resumed(stage: int, kind: str, tiny_llama: Path, tmp_path: Path) -> None:
    """Weights of Qwen2-VL have other names in files than in the model."""
    model = build("qwen2_vl", tmp_path / "model", tiny_llama)
    more = media_set(tmp_path) | {"finetuning_type": kind, "max_steps": 20, "save_strategy": "steps", "save_steps": 5}
    more |= FROZEN | {"per_device_train_batch_size": 4}
    given = run_keys(model, "qwen2_vl", tmp_path / "one", **more)
    one = train(given)
    parts = {"per_device_train_batch_size": 2, "output_dir": str(tmp_path / "parts")}
    result = train_elsewhere(given | zero(stage) | parts, ranks=2, restarts=0, KILL_AT="12", KILL_RANK="1")
    assert result.returncode
    assert_same(one, run(given | zero(stage), 2, tmp_path / "parts"))


def test_stage_3_with_towers_is_refused(tiny_llama: Path, tmp_path: Path) -> None:
    model = build("qwen2_vl", tmp_path / "model", tiny_llama)
    given = run_keys(model, "qwen2_vl", tmp_path / "out", **media_set(tmp_path) | FROZEN)
    result = train_elsewhere(given | zero(3), ranks=2, restarts=0)
    assert "in ZeRO stage 3 a process without media would not take part in gathering towers" in result.stderr
