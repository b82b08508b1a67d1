# SPDX-License-Identifier: Apache-2.0
"""What holds for both RL stages: cuts of a step, ranks, resume, evaluation, what is written, what is refused."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from llamafactory.extras.errors import ConfigError
from llamafactory.train.saving.checkpoints import checkpoints

from .conftest import Keys
from .rollouts import GRPO, PPO, make_trainer, prompt_set, records
from .running import curve, log_of, train, train_elsewhere, weights_of

STAGES = pytest.mark.parametrize("given", [GRPO, PPO], ids=["grpo", "ppo"])
ONE_STAGE = pytest.mark.parametrize("given", [GRPO, pytest.param(PPO, marks=pytest.mark.slow)], ids=["grpo", "ppo"])
# Everything that could depend on how a step is cut: several passes, the reference, norms over tokens.
FULL = {
    "grpo": {"learning_rate": 3e-4, "max_steps": 4, "num_iterations": 2, "beta": 0.05},
    "ppo": {"learning_rate": 3e-4, "max_steps": 4, "ppo_whiten_rewards": True, "ppo_score_norm": True},
}


@pytest.fixture
def rl(keys: Keys, tmp_path: Path) -> Keys:
    """Keys of a quick RL run."""
    return lambda **more: keys(**{**prompt_set(tmp_path), **more})


def _same(one: Path, other: Path, tolerance: float = 1e-5) -> None:
    ours, theirs = records(one), records(other)
    assert [row["completion"] for row in ours] == [row["completion"] for row in theirs]
    for a, b in zip(ours, theirs, strict=True):
        assert a["advantage"] == pytest.approx(b["advantage"], abs=10 * tolerance)
    for a, b in zip(curve(one), curve(other), strict=True):
        assert a == pytest.approx(b, abs=tolerance)
    for name in ("entropy", "clip_fraction", "kl", "value_loss", "reward"):
        shown = [[row.get(name) for row in log_of(run)] for run in (one, other)]
        for a, b in zip(*shown, strict=True):
            assert a == (b if b is None else pytest.approx(b, abs=tolerance)), name


@STAGES
@pytest.mark.parametrize("free", [None, False])
def test_a_step_may_be_cut_in_any_way(rl: Keys, tmp_path: Path, given: dict[str, Any], free: bool | None) -> None:
    runs = [
        train(
            rl(**given)
            | FULL[given["stage"]]
            | {"output_dir": str(tmp_path / str(batch)), "padding_free": free}
            | ({"loss_type": "grpo"} if given is GRPO else {})
            | {"per_device_train_batch_size": batch, "gradient_accumulation_steps": 8 // batch}
        )
        for batch in (8, 2)
    ]
    _same(*runs)


@pytest.mark.slow
@ONE_STAGE
def test_two_ranks_are_one(rl: Keys, tmp_path: Path, given: dict[str, Any]) -> None:
    settings = rl(**given) | FULL[given["stage"]] | {"val_size": 5, "do_train": True, "do_eval": True}
    one = train(settings | {"output_dir": str(tmp_path / "one")})
    two = settings | {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    done = train_elsewhere(two, ranks=2)
    assert done.returncode == 0, done.stderr[-2000:]
    run = Path(settings["output_dir"])
    _same(one, run)
    results = [json.loads((folder / "eval_results.json").read_text()) for folder in (one, run)]
    for key in ("eval_reward", "eval_response_length", "eval_finished"):
        assert results[0][key] == pytest.approx(results[1][key])


@ONE_STAGE
@pytest.mark.parametrize("kind", ["full", pytest.param("lora", marks=pytest.mark.slow)])
def test_five_steps_and_kill_and_five_are_ten(rl: Keys, tmp_path: Path, given: dict[str, Any], kind: str) -> None:
    """The checkpoint falls between two passes over a rollout."""
    more = {"max_steps": 10, "save_strategy": "steps", "save_steps": 5, "finetuning_type": kind, "val_size": 4}
    more |= {"do_train": True, "learning_rate": 1e-2, "eval_strategy": "steps", "eval_steps": 4}
    settings = rl(**given) | FULL[given["stage"]] | more
    whole = train(settings | {"output_dir": str(tmp_path / "whole")})
    killed = train_elsewhere(settings, KILL_AT="7")
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-2000:]
    run = Path(settings["output_dir"])
    assert [path.name for path in checkpoints(run)] == ["checkpoint-5"]
    assert records(run)[-1]["step"] == 7
    train(settings)
    theirs = weights_of(whole)
    assert all(torch.equal(weight, theirs[name]) for name, weight in weights_of(run).items())
    assert curve(run) == curve(whole)
    assert records(run) == records(whole)
    assert sorted({row["step"] for row in records(run)}) == [1, 3, 5, 7, 9]
    for name in ("kl_weight", "reward", "eval_reward", "entropy", "value_loss"):
        assert [row.get(name) for row in log_of(run)] == [row.get(name) for row in log_of(whole)]


@STAGES
def test_the_reward_rises(rl: Keys, given: dict[str, Any]) -> None:
    more = {"max_steps": 24, "max_new_tokens": 8, "per_device_train_batch_size": 16, "learning_rate": 1e-2}
    more |= {"ppo_epochs": 2, "ppo_score_norm": True} if given is PPO else {}
    run = train(rl(**given) | more)
    rewards = [row["reward"] for row in log_of(run) if "reward" in row]
    assert sum(rewards[-3:]) / 3 > sum(rewards[:3]) / 3 + 0.15, rewards


@STAGES
@pytest.mark.parametrize("kind", ["full", "freeze", "lora"])
def test_what_a_run_leaves(
    rl: Keys, given: dict[str, Any], kind: str, capfd: pytest.CaptureFixture[str], tiny_llama: Path
) -> None:
    more = {"finetuning_type": kind, "val_size": 4, "do_train": True, "do_eval": True, "plot_loss": True}
    more |= {"freeze_trainable_layers": 1} if kind == "freeze" else {}
    run = train(rl(**given) | more | {"eval_rollouts": "sample"})
    names = {path.name for path in run.iterdir()}
    assert {"rollouts.jsonl", "eval_results.json", "trainer_log.jsonl"} <= names
    assert {"training_loss.png", "training_reward.png", "training_entropy.png"} <= names
    assert ("value_head.safetensors" in names) == (given is PPO)
    assert not [name for name in weights_of(run) if "value_head" in name]
    if kind != "lora":
        _, report = AutoModelForCausalLM.from_pretrained(run, output_loading_info=True)
        assert not report["unexpected_keys"] and not report["missing_keys"]
    moved = weights_of(run)
    assert any(not torch.equal(weight, start) for weight, start in _against_start(moved, kind, tiny_llama))
    record = records(run)[0]
    assert set(record) == {"step", "prompt", "completion", "rewards", "reward", "length", "finished", "advantage"}
    assert record["rewards"] == {"vowels": record["reward"]}
    results = json.loads((run / "eval_results.json").read_text())
    assert {"eval_reward", "eval_reward/vowels", "eval_response_length", "eval_finished"} <= set(results)
    first = log_of(run)[0]
    assert {"reward", "reward/vowels", "reward_std", "entropy", "clip_fraction", "response_length", "finished"} <= set(
        first
    )
    assert ({"kl", "value_loss", "kl_weight"} <= set(first)) == (given is PPO)
    assert "Answers at step 1" in capfd.readouterr().err
    assert 0 < first["data_wait"] < 1  # the share of the rollout
    speed = json.loads((run / "train_results.json").read_text())
    drawn = sum(record["length"] for record in records(run))
    assert speed["trained_tokens_per_second"] > drawn / speed["train_runtime"]  # evaluation and saving are not counted


def _against_start(weights: dict[str, Any], kind: str, folder: Path) -> list[tuple[Any, Any]]:
    if kind == "lora":
        return [(weight, torch.zeros_like(weight)) for name, weight in weights.items() if "lora_B" in name]
    start = weights_of(folder)
    return [(weight, start[name]) for name, weight in weights.items() if name in start]


REFUSED = {
    "no reward": ({"reward_funcs": None}, "reward_model: missing, stage .* needs it or reward_funcs"),
    "greedy": ({"do_sample": False}, "do_sample: stage .* needs draws at random"),
    "beams": ({"num_beams": 3}, "num_beams: 3 is not possible in stage"),
    "engine": ({"rollout_engine": "sglang"}, "rollout_engine: expected one of huggingface, vllm, got 'sglang'"),
    "few prompts": (
        {"max_samples": 1, "per_device_train_batch_size": 64},
        "dataset: 1 prompts, an optimizer step needs",
    ),
    "evaluation only": ({"do_train": False, "do_eval": True}, "needs do_train: true"),
}


@STAGES
@pytest.mark.parametrize("name", REFUSED)
def test_mistakes_are_named(rl: Keys, given: dict[str, Any], name: str) -> None:
    more, message = REFUSED[name]
    with pytest.raises(ConfigError, match=message):
        train(rl(**given) | more)


def test_bad_rows_are_named(keys: Keys, tmp_path: Path) -> None:
    good = {"instruction": "who", "output": "a"}
    with pytest.raises(ConfigError, match="row 2: the prompt is empty"):
        train(keys(**prompt_set(tmp_path, [good, {"instruction": " ", "output": "a"}, good]), **GRPO))
    turns = [{"messages": [{"role": role, "content": "hi"} for role in roles]} for roles in (["user"], ["assistant"])]
    with pytest.raises(ConfigError, match="row 2: there is no prompt before the answer"):
        train(keys(**prompt_set(tmp_path, turns), **GRPO))


def test_what_is_left_out_does_not_count(rl: Keys, tmp_path: Path) -> None:
    """Answers that were cut off, and groups whose rewards are equal, change nothing."""
    cut = make_trainer(rl(**GRPO, mask_truncated_completions=True))
    (batch,), count = cut.get_batch_samples(iter(()), 1, torch.device("cpu"))
    assert batch["kept"].tolist() == list(batch["finished"]) and count == max(sum(batch["finished"]), 1)
    (tmp_path / "same.py").write_text("def same(completions): return [1.0] * 4 + [0.0, 1.0, 0.0, 1.0]")
    given = rl(**GRPO, dynamic_sampling=True, output_dir=str(tmp_path / "b")) | {
        "reward_funcs": f"{tmp_path}/same.py:same"
    }
    (batch,), count = make_trainer(given).get_batch_samples(iter(()), 1, torch.device("cpu"))
    assert batch["kept"].tolist() == [0.0] * 4 + [1.0] * 4 and count == 4
