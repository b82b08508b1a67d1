# SPDX-License-Identifier: Apache-2.0
"""A run that was killed, or asked to stop, goes on as if nothing had been."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from llamafactory.extras.errors import ConfigError
from llamafactory.train.saving.checkpoints import checkpoints, clear_leftovers, resume_point

from .conftest import Keys
from .running import assert_bit_equal, log_of, rates_of, train, train_elsewhere, weights_of

_LONG = {"max_steps": 10, "save_strategy": "steps", "save_steps": 5, "lora_dropout": 0.2, "logging_steps": 3}


@pytest.mark.parametrize("packing", [False, True])
def test_five_steps_and_kill_and_five_are_ten(keys: Keys, tmp_path: Path, packing: bool) -> None:
    """Bit-equal on the CPU: weights and every logged loss, with dropout, over an epoch border when packed."""
    settings = keys(**_LONG, packing=packing, neat_packing=packing)
    whole = train(settings | {"output_dir": str(tmp_path / "whole")})
    killed = train_elsewhere(settings, KILL_AT="7")
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-2000:]
    run = Path(settings["output_dir"])
    assert [path.name for path in checkpoints(run)] == ["checkpoint-5"]
    train(settings)
    assert_bit_equal(whole, run)


def test_words_that_a_users_callback_has_too_are_not_taken_for_ours(keys: Keys) -> None:
    class Own(TrainerCallback):
        def save(self) -> None:
            raise AssertionError("not ours to call")

        load = save

    settings = keys(max_steps=2, save_strategy="steps", save_steps=1)
    train(settings, [Own()])
    train(settings | {"max_steps": 3}, [Own()])


@pytest.mark.parametrize("kind", [{}, {"streaming": True}], ids=["map", "streaming"])
def test_the_last_checkpoint_is_the_end(keys: Keys, capfd: pytest.CaptureFixture[str], kind: dict[str, Any]) -> None:
    """Killed between the last checkpoint and the final save, and started again when all is done: no step is taken."""
    settings = keys(**_LONG, **kind, lr_scheduler_type="constant")
    run = train(settings)
    assert "will teach little" in capfd.readouterr().err
    weights, log, results = weights_of(run), log_of(run), (run / "train_results.json").read_text()
    for name in ("adapter_model.safetensors", "all_results.json"):
        (run / name).unlink()
    for _ in range(2):
        capfd.readouterr()
        train(settings)
        assert (run / "train_results.json").read_text() == results, "the figures of the run that trained"
        said = capfd.readouterr().err
        assert "all 10 steps were done before: nothing is left to train" in said and "will teach little" not in said
        assert log_of(run) == log and [path.name for path in checkpoints(run)] == ["checkpoint-5", "checkpoint-10"]
        assert all(torch.equal(weight, weights[name]) for name, weight in weights_of(run).items())


class _Signal(TrainerCallback):
    def __init__(self, number: int) -> None:
        self.number = number

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 3:
            os.kill(os.getpid(), self.number)


@pytest.fixture(scope="module")
def uninterrupted() -> dict[str, Any]:
    """Weights of the run that nothing stopped; the first test that needs them trains it for all."""
    return {}


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_saves_first_and_says_how_to_go_on(
    keys: Keys,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    uninterrupted: dict[str, Any],
    number: int,
    code: int,
) -> None:
    settings = keys(**_LONG)
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as stopped:
        train(settings, [_Signal(number)])
    assert stopped.value.code == code and signal.getsignal(number) is before
    run = Path(settings["output_dir"])
    said = capfd.readouterr().err
    assert f"checkpoint: {run / 'checkpoint-4'}\n" in said and said.endswith("To go on:\n  the same settings\n")
    assert [path.name for path in checkpoints(run)] == ["checkpoint-4"]
    assert not (run / "adapter_model.safetensors").exists()
    train(settings)
    if not uninterrupted:
        uninterrupted.update(weights_of(train(settings | {"output_dir": str(tmp_path / "whole")})))
    assert all(torch.equal(weight, uninterrupted[name]) for name, weight in weights_of(run).items())


class _Failure(TrainerCallback):
    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        raise ConfigError("enough")


def test_signals_are_given_back_when_training_fails(keys: Keys) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(ConfigError, match="enough"):
        train(keys(max_steps=1), [_Failure()])
    assert signal.getsignal(signal.SIGTERM) is before


def _folder(root: Path, step: int, whole: bool = True) -> Path:
    path = root / f"checkpoint-{step}"
    path.mkdir(parents=True)
    if whole:
        (path / "trainer_state.json").write_text("{}")
    return path


def test_resume_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_RESTART_COUNT", raising=False)
    assert resume_point(tmp_path, None, False) is None
    nine, ten = _folder(tmp_path, 9), _folder(tmp_path, 10)
    _folder(tmp_path, 11, whole=False)
    assert resume_point(tmp_path, None, False) == ten
    assert resume_point(tmp_path, "true", True) == ten
    assert resume_point(tmp_path, str(nine), True) == nine
    assert resume_point(tmp_path, None, True) is None
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert resume_point(tmp_path, None, True) == ten
    with pytest.raises(ConfigError, match="is not a checkpoint"):
        resume_point(tmp_path, str(tmp_path / "checkpoint-11"), False)
    with pytest.raises(ConfigError, match="no checkpoint in"):
        resume_point(tmp_path / "elsewhere", "true", False)


def test_leftovers_go_and_checkpoints_stay(tmp_path: Path) -> None:
    _folder(tmp_path, 5)
    for name in (".staging-checkpoint-10", ".trash-checkpoint-1", "keep"):
        (tmp_path / name).mkdir()
    clear_leftovers(tmp_path, old_checkpoints=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-5", "keep"]
    clear_leftovers(tmp_path, old_checkpoints=True)
    assert [path.name for path in tmp_path.iterdir()] == ["keep"]


@pytest.mark.parametrize("schedule", ["linear", "cosine", "warmup_stable_decay"])
def test_more_epochs_follow_the_longer_schedule(keys: Keys, tmp_path: Path, schedule: str) -> None:
    settings = keys(
        max_steps=-1, save_strategy="epoch", per_device_train_batch_size=12, lr_scheduler_type=schedule, warmup_steps=1
    )
    run = train(settings | {"num_train_epochs": 1})
    train(settings | {"num_train_epochs": 2})
    whole = train(settings | {"num_train_epochs": 2, "output_dir": str(tmp_path / "whole")})
    rates, expected = rates_of(run), rates_of(whole)
    assert rates.keys() == expected.keys() == set(range(1, 9))
    assert all(rates[step] == expected[step] for step in range(5, 9)) and rates[5] > 0
