# SPDX-License-Identifier: Apache-2.0
"""Answers that are shown while a model is trained, and the loss that ends a run."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

from llamafactory.extras.errors import ConfigError
from llamafactory.train.callbacks.reporters import log_texts
from llamafactory.train.callbacks.watchdog import LossWatchdog
from llamafactory.train.evaluation import prediction

from .conftest import Keys
from .running import train, train_elsewhere


class _Watch(TrainerCallback):
    optimizer: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, optimizer: Any = None, **_: Any) -> None:
        self.optimizer = optimizer


def test_answers_are_those_of_the_checkpoint(keys: Keys, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watch, modes = _Watch(), []
    inputs = prediction.prompt_inputs

    def look(*words: Any) -> Any:
        modes.append(watch.optimizer.param_groups[0]["train_mode"])
        return inputs(*words)

    monkeypatch.setattr(prediction, "prompt_inputs", look)
    run = train(keys(
        max_steps=4, val_size=4, eval_strategy="steps", eval_steps=2, save_strategy="steps", save_steps=2,
        generate_samples=2, do_sample=False, max_new_tokens=8, skip_special_tokens=False, learning_rate=0.01,
        report_to="tensorboard",
        optim="schedule_free_adamw", lr_scheduler_type="constant", per_device_eval_batch_size=1,
    ), [watch])  # fmt: skip
    rows = [json.loads(line) for line in (run / "generated_samples.jsonl").read_text().splitlines()]
    assert [row["current_steps"] for row in rows] == [2, 2, 4, 4] and len({row["prompt"] for row in rows}) == 2
    assert rows[0]["prompt"] == rows[2]["prompt"] and all(row["label"] for row in rows)
    assert modes and not any(modes), "the averaged weights answer, which are those that are saved"
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    model = AutoModelForCausalLM.from_pretrained(tiny_llama)
    model = PeftModel.from_pretrained(model, run / "checkpoint-4").eval()
    ids = tokenizer(rows[2]["prompt"], return_tensors="pt", add_special_tokens=False).input_ids
    with torch.no_grad():
        out = model.generate(input_ids=ids, do_sample=False, max_new_tokens=8, eos_token_id=tokenizer.eos_token_id)
    shown = rows[2]["predict"]
    assert shown and tokenizer.decode(out[0, ids.shape[1] :]) == shown
    [event] = (run / "runs").rglob("events*")
    assert b"samples" in event.read_bytes() and rows[2]["label"].encode() in event.read_bytes()


@pytest.mark.slow
def test_two_ranks_show_what_one_does(keys: Keys, tmp_path: Path) -> None:
    """An odd number of prompts: one rank has nothing to answer in the last batch."""
    given = {"do_train": False, "do_eval": True, "val_size": 6, "generate_samples": 3, "do_sample": False,
             "max_new_tokens": 6, "skip_special_tokens": False, "per_device_eval_batch_size": 1}  # fmt: skip
    one = train(keys(**given))
    done = train_elsewhere(keys(**given, output_dir=str(tmp_path / "two")), ranks=2)
    assert done.returncode == 0, done.stderr[-2000:]
    shown = [(run / "generated_samples.jsonl").read_text() for run in (one, tmp_path / "two")]
    assert shown[0] == shown[1] and len(shown[0].splitlines()) == 3


def test_what_goes_to_other_trackers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their calls by name: wandb.log with a Table, mlflow.log_dict."""
    sent: list[Any] = []
    table = lambda columns, data: (columns, data)  # noqa: E731
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(Table=table, log=sent.append))
    fake = SimpleNamespace(log_dict=lambda rows, name: sent.append((rows, name)))
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    handler: Any = SimpleNamespace(callbacks=[])
    log_texts(["wandb", "mlflow"], handler, 7, [{"prompt": "a", "predict": "b"}])
    assert sent[0] == {"samples": (["prompt", "predict"], [["a", "b"]]), "train/global_step": 7}
    assert sent[1] == ([{"prompt": "a", "predict": "b"}], "samples/step_7.json")


def test_a_loss_that_stays_too_large_ends_the_run(keys: Keys) -> None:
    line = (
        r"^loss_watchdog_threshold: the loss was above 1.0 in 2 logs in a row, \d.\d+ at step 2; lower learning_rate$"
    )
    with pytest.raises(ConfigError, match=line):
        train(keys(max_steps=4, logging_steps=1, loss_watchdog_threshold=1.0, loss_watchdog_patience=2))


def test_single_losses_do_not() -> None:
    watchdog = LossWatchdog(5.0, 2)
    for loss in (6.0, 1.0, 6.0, 5.0, 7.0):
        watchdog.on_log(None, None, None, logs={"loss": loss})
    watchdog.on_log(None, None, None, logs={"eval_loss": 9.0})
    with pytest.raises(ConfigError, match="in 2 logs in a row"):
        watchdog.on_log(None, SimpleNamespace(global_step=7), None, logs={"loss": 9.0})


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"generate_samples": 2}, "generate_samples: answers at evaluations, so it needs eval_strategy or do_eval"),
        ({"generate_samples": 2, "stage": "pt", "do_eval": True}, "generate_samples: only for stage sft, not pt"),
        ({"generate_samples": -1}, "generate_samples: "),
        ({"loss_watchdog_threshold": 0}, "loss_watchdog_threshold: "),
        ({"loss_watchdog_patience": 0}, "loss_watchdog_patience: "),
    ],
)
def test_what_cannot_be_is_one_line(keys: Keys, given: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError, match=f"^{line}"):
        train(keys(**given))
