# SPDX-License-Identifier: Apache-2.0
"""A run that goes on with other settings says so: some may differ, some on the user's word, some never."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback

from llamafactory.extras.errors import ConfigError

from .conftest import Keys, Saved
from .running import copied, log_of, rates_of, record_batches, train


def test_a_checkpoint_holds_its_settings_with_secrets_masked(keys: Keys) -> None:
    run = train(keys(max_steps=2, save_strategy="steps", save_steps=2, hub_token="hf_verysecret"))
    text = (run / "checkpoint-2" / "run_config.json").read_text("utf-8")
    config = json.loads(text)
    assert config["learning_rate"] == 1e-3 and config["lora_rank"] == 8 and config["effective_batch"] == 4
    assert config["training_data"] and config["world_size"] == 1 and "verysecret" not in text


@pytest.mark.parametrize(
    "changed",
    [
        {"learning_rate": 2e-3},
        {"template": "llama3"},
        {"cutoff_len": 64},
        {"seed": 7},
        {"lora_alpha": 64},
        {"gradient_accumulation_steps": 2},
        {"per_device_train_batch_size": 8},
        {"lr_scheduler_type": "cosine"},
        {"optim": "adafactor"},
        {"weight_decay": 0.1},
        {"lora_dropout": 0.5},
        {"packing": True},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_another_meaning_is_refused(
    saved: Saved, tmp_path: Path, capfd: pytest.CaptureFixture[str], changed: dict[str, Any]
) -> None:
    settings = copied(saved, tmp_path / "run") | {"max_steps": 8}
    before = sorted(path.name for path in (tmp_path / "run").iterdir())
    key, value = next(iter(changed.items()))
    with pytest.raises(ConfigError) as refused:
        train(settings | changed)
    message = str(refused.value)
    assert "\n" not in message and f"was made with another {key}" in message.replace(", training_data", "")
    assert "resume_changed: true" in message and "adapter_name_or_path: " in message and "output_dir" in message
    table = capfd.readouterr().err
    row = next(line for line in table.splitlines() if line.split()[:1] == [key])
    assert str(json.loads(json.dumps(value))).lower() in row.lower()
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == before


def test_other_rows_are_refused(saved: Saved, tmp_path: Path, alpaca: Path) -> None:
    """The same name and another content; the same content under a name that is written otherwise goes on."""
    rows = json.loads(alpaca.read_text("utf-8"))
    data = tmp_path / "rows.json"
    data.write_text(json.dumps(rows), "utf-8")
    first = saved[0] | {"dataset": str(data), "output_dir": str(tmp_path / "run"), "max_steps": 3}
    train(first)
    data.write_text(json.dumps([*rows[:-1], {"instruction": "who", "output": "a river"}]), "utf-8")
    with pytest.raises(ConfigError, match="was made with another training_data;"):
        train(first | {"max_steps": 6})


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"lora_rank": 4}, "lora_rank"),
        ({"lora_target": "q_proj"}, "lora_target"),
        ({"use_dora": True}, "use_dora"),
        ({"finetuning_type": "full"}, "finetuning_type"),
        ({"stage": "pt"}, "stage"),
    ],
    ids=str,
)
@pytest.mark.parametrize("resume_changed", [False, True])
def test_what_does_not_fit_is_refused_always(
    saved: Saved, tmp_path: Path, changed: dict[str, Any], named: str, resume_changed: bool
) -> None:
    settings = copied(saved, tmp_path / "run") | {"max_steps": 8, "resume_changed": resume_changed}
    begins = "model_name_or_path: an export of the adapter " if named == "finetuning_type" else "adapter_name_or_path: "
    with pytest.raises(ConfigError, match=rf"does not fit another .*\b{named}\b.*output_dir, where {begins}\S+ begins"):
        train(settings | changed)


def test_another_base_is_refused_and_a_moved_one_is_not(saved: Saved, tmp_path: Path, tiny_llama: Path) -> None:
    settings = copied(saved, tmp_path / "run") | {"max_steps": 7, "resume_changed": True}
    shutil.copytree(tiny_llama, tmp_path / "base")
    moved = settings | {"model_name_or_path": str(tmp_path / "base")}
    weights = load_file(tmp_path / "base" / "model.safetensors")
    next(iter(weights.values()))[0] += 1
    shutil.copytree(tmp_path / "base", tmp_path / "other")
    save_file(weights, tmp_path / "other" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match="does not fit another model_name_or_path"):
        train(settings | {"model_name_or_path": str(tmp_path / "other")})
    train(moved | {"resume_changed": False})
    assert log_of(tmp_path / "run")[-1]["current_steps"] == 7


def test_what_may_change_passes(saved: Saved, tmp_path: Path, alpaca: Path) -> None:
    """Logs, checkpoints, evaluation, length, and another split of the same batch."""
    settings = copied(saved, tmp_path / "run")
    more = {"max_steps": 8, "save_steps": 2, "logging_steps": 2, "plot_loss": True, "run_name": "x"}
    more |= {"eval_strategy": "steps", "eval_steps": 4, "eval_dataset": str(alpaca), "preprocessing_num_workers": 2}
    train(settings | more | {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2})
    assert [row["current_steps"] for row in log_of(tmp_path / "run") if row.get("loss")][-1] == 8


def test_resume_changed_goes_on_with_the_new_settings(saved: Saved, tmp_path: Path) -> None:
    settings = copied(saved, tmp_path / "run") | {"resume_changed": True, "max_steps": 9}
    new = {"learning_rate": 4e-3, "lr_scheduler_type": "cosine", "adam_beta1": 0.8, "weight_decay": 0.1}
    run = train(settings | new)
    whole = train(saved[0] | new | {"max_steps": 9, "output_dir": str(tmp_path / "whole")})
    assert rates_of(run).keys() == rates_of(whole).keys()
    assert {step: rate for step, rate in rates_of(run).items() if step > 6} == {
        step: rate for step, rate in rates_of(whole).items() if step > 6
    }
    group = torch.load(run / "checkpoint-9" / "optimizer.pt", weights_only=True)["param_groups"][0]
    assert group["betas"] == (0.8, 0.999) and group["weight_decay"] == 0.1 and group["initial_lr"] == 4e-3
    train(settings | new | {"max_steps": 10, "resume_changed": False})  # the last checkpoint has the new settings


@pytest.mark.parametrize(
    "changed", [{"optim": "adafactor"}, {"lr_scheduler_type": "reduce_lr_on_plateau"}, {"loraplus_lr_ratio": 2.0}]
)
def test_resume_changed_with_another_optimizer_or_kind_of_schedule(
    saved: Saved, tmp_path: Path, alpaca: Path, changed: dict[str, Any]
) -> None:
    evaluating = {"eval_strategy": "steps", "eval_steps": 3, "eval_dataset": str(alpaca), "save_strategy": "no"}
    settings = copied(saved, tmp_path / "run") | evaluating | {"resume_changed": True, "max_steps": 8}
    run = train(settings | changed)
    assert max(rates_of(run)) == 8 and rates_of(run)[7] > 0


@pytest.mark.parametrize("batch", [2, pytest.param(8, marks=pytest.mark.slow)])
def test_another_batch_sees_every_row(keys: Keys, tmp_path: Path, batch: int) -> None:
    """Of 48 rows 20 were seen in five steps of four; the rest of both epochs follows, also over a second resume."""
    settings = keys(num_train_epochs=2, max_steps=-1, save_strategy="steps", save_steps=5, padding_free=True)
    settings |= {"logging_steps": 1}
    train(settings | {"max_steps": 5})
    undo = record_batches(tmp_path / "seen")
    try:
        new = settings | {"per_device_train_batch_size": batch, "resume_changed": True, "save_steps": 1}
        with pytest.raises(SystemExit):
            train(new, [_SignalAt(7)])
        train(new)
    finally:
        undo()
    epochs = [json.loads(line) for line in (tmp_path / "seen.0").read_text().splitlines()]
    seen = sum(len(rows) for _, rows in epochs)
    again = 20 % batch
    assert seen == 96 - 20 + again
    assert log_of(Path(settings["output_dir"]))[-1]["epoch"] == pytest.approx(2)


class _SignalAt(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


def test_an_older_checkpoint_goes_on_with_a_warning(
    saved: Saved, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = copied(saved, tmp_path / "run") | {"max_steps": 7}
    for name in ("run_config.json", "checkpoint_files.json"):
        (tmp_path / "run" / "checkpoint-6" / name).unlink()
    train(settings)
    assert capfd.readouterr().err.count("has no run_config.json") == 1
    assert max(rates_of(tmp_path / "run")) == 7


def test_evaluating_alone_resumes_nothing(saved: Saved, tmp_path: Path, alpaca: Path) -> None:
    """Neither changed settings nor a damaged checkpoint keep a trained adapter from being evaluated."""
    settings = copied(saved, tmp_path / "run")
    (tmp_path / "run" / "checkpoint-6" / "optimizer.pt").unlink()
    alone = {"do_train": False, "do_eval": True, "dataset": None, "eval_dataset": str(alpaca), "template": "llama3"}
    train(settings | alone | {"adapter_name_or_path": str(tmp_path / "run")})
    assert json.loads((tmp_path / "run" / "eval_results.json").read_text("utf-8"))["eval_loss"] > 0
