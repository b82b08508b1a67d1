# SPDX-License-Identifier: Apache-2.0
"""What a run chooses where the user is silent, that it is written down and kept, and what it warns of."""

from __future__ import annotations

import json
import logging
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig, AutoModelForCausalLM, TrainerCallback

from llamafactory.hparams import get_train_args
from llamafactory.train.recipe import advise, count_weights, settle_recipe, usual_rate

from .conftest import Keys
from .running import train


def _args(model: Path, **more: Any) -> Any:
    return get_train_args({"model_name_or_path": str(model), "dataset": "identity", "template": "chatml", **more})


def test_the_same_step_for_every_stage_and_method(tiny_llama: Path) -> None:
    def rate(**more: Any) -> float:
        return usual_rate(_args(tiny_llama, **more))

    assert rate() == 1e-3 and rate(finetuning_type="full") == 1e-4
    assert rate(stage="dpo") < rate(stage="rm") < rate(stage="sft") == rate(stage="pt")


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_weights_are_counted_about_right(kind: str) -> None:
    shape = {"hidden_size": 256, "intermediate_size": 700, "num_hidden_layers": 6, "num_attention_heads": 4}
    config = AutoConfig.for_model(kind, **shape, num_key_value_heads=4, vocab_size=5000, tie_word_embeddings=True)
    real = AutoModelForCausalLM.from_config(config).num_parameters()
    assert 0.7 < count_weights(config) / real < 1.4


def test_few_rows_are_seen_more_often(tiny_llama: Path) -> None:
    args, chosen = settle_recipe(_args(tiny_llama), 60, 1, None)
    training = args.training
    assert chosen.keys() >= {"learning_rate", "num_train_epochs", "per_device_train_batch_size", "logging_steps"}
    assert training.num_train_epochs * 60 / training.per_device_train_batch_size >= 200
    many, _ = settle_recipe(_args(tiny_llama), 100_000, 1, None)
    assert (many.training.num_train_epochs, many.training.per_device_train_batch_size) == (3, 8)
    on_four, _ = settle_recipe(_args(tiny_llama), 60, 4, None)
    assert on_four.training.per_device_train_batch_size * 4 == training.per_device_train_batch_size


def test_what_the_user_says_stays(tiny_llama: Path) -> None:
    given = {
        "learning_rate": 5e-5, "num_train_epochs": 3, "per_device_train_batch_size": 8, "logging_steps": 500
    }  # fmt: skip
    before = _args(tiny_llama, **given)  # equal to the defaults, and still said
    args, chosen = settle_recipe(before, 60, 1, None)
    assert chosen == {} and args.training == before.training
    _, chosen = settle_recipe(_args(tiny_llama, gradient_accumulation_steps=8, max_steps=20), 60, 1, None)
    assert chosen.keys() == {"learning_rate", "logging_steps"}
    _, chosen = settle_recipe(_args(tiny_llama, optim="sgd", stage="dpo"), 60, 1, None)
    assert chosen.keys() == {"logging_steps"}  # usual are rates of Adam, and epochs of texts


@pytest.mark.parametrize(
    ("keys", "rows", "steps", "said"),
    [
        # the recipe that once stood in the README, on 59 rows
        ({"learning_rate": 1e-4, "num_train_epochs": 3}, 59, 24, "24 steps at learning_rate 0.0001 will teach little"),
        ({"learning_rate": 1e-3, "num_train_epochs": 3}, 5000, 1875, None),
        ({"learning_rate": 1e-4}, 5000, 1875, None),  # ten times less than usual, and long enough
        ({"learning_rate": 0.05}, 5000, 1875, "far from what is usual"),
        ({"learning_rate": 1e-6, "finetuning_type": "full"}, 5000, 1875, "will teach little"),
        ({"learning_rate": 1e-8, "stage": "dpo"}, 5000, 1875, "far from what is usual"),
        ({"learning_rate": 1e-3, "optim": "sgd"}, 5000, 5, None),
    ],
)  # fmt: skip
def test_a_run_that_teaches_nothing_is_told(
    tiny_llama: Path, keys: dict[str, Any], rows: int, steps: int, said: str | None
) -> None:
    args = _args(tiny_llama, **keys)
    hint = advise(args, rows, steps, 1)
    assert said in hint if said and hint else hint is said, hint
    if said and hint:
        tried = dict(word.split("=") for word in hint.split() if "=" in word)
        assert "\n" not in hint and tried
        better = replace(args.training, learning_rate=float(tried["learning_rate"]))
        assert advise(replace(args, training=better), rows, 2000, 1) is None


def test_the_choice_is_said_written_and_kept(keys: Keys, caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("llamafactory").propagate = True
    given = keys(save_strategy="steps", save_steps=2, max_steps=4)
    for key in ("learning_rate", "per_device_train_batch_size", "logging_steps"):
        del given[key]
    try:
        run = train(given)
    finally:
        logging.getLogger("llamafactory").propagate = False
    plan = next(line for line in caplog.messages if line.startswith("plan: "))
    assert "48 rows" in plan and "4 steps" in plan and "learning rate 0.001" in plan
    assert any("chosen: learning_rate 0.001" in line for line in caplog.messages)
    manifest = json.loads((run / "run_manifest.json").read_text())
    assert manifest["chosen"]["learning_rate"] == manifest["config"]["training"]["learning_rate"] == 1e-3
    checkpoint = json.loads((run / "checkpoint-2" / "run_config.json").read_text())
    assert checkpoint["learning_rate"] == 1e-3 and checkpoint["per_device_train_batch_size"] == 4
    # A checkpoint of another choice (of an older version, or of fewer rows) goes on with its own.
    checkpoint["learning_rate"] = 5e-5
    (run / "checkpoint-2" / "run_config.json").write_text(json.dumps(checkpoint))
    args, chosen = settle_recipe(get_train_args(given), 48, 1, run / "checkpoint-2")
    assert args.training.learning_rate == chosen["learning_rate"] == 5e-5


def _planned(given: dict[str, Any], caplog: pytest.LogCaptureFixture) -> tuple[tuple[float, int], tuple[float, int]]:
    """Train; return the epochs and steps that were said before, and those the trainer counted."""
    counted = []

    class Count(TrainerCallback):
        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            counted.append((round(state.epoch, 2), state.global_step))

    caplog.clear()
    logging.getLogger("llamafactory").propagate = True
    try:
        train(given, [Count()])
    finally:
        logging.getLogger("llamafactory").propagate = False
    plan = next(line for line in caplog.messages if line.startswith("plan: "))
    found = re.search(r", ([\d.]+) epochs: (\d+) steps", plan)
    assert found is not None, plan
    return (float(found[1]), int(found[2])), counted[0]


@pytest.mark.parametrize(
    "keys_of_run",
    [
        {"max_steps": 4, "gradient_accumulation_steps": 5},  # 12 micro-batches: steps of 5, 5 and 2
        {"max_steps": -1, "num_train_epochs": 0.4, "per_device_train_batch_size": 7},
        {"per_device_train_batch_size": 9, "dataloader_drop_last": True, "gradient_accumulation_steps": 2},
        {"max_steps": 3, "packing": True},
        {"max_steps": 3, "per_device_train_batch_size": 64},
    ],
)  # fmt: skip
def test_the_plan_is_what_the_trainer_does(
    keys: Keys, keys_of_run: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    said, done = _planned(keys(**keys_of_run), caplog)
    assert said == done


def test_the_plan_of_a_run_that_goes_on_with_another_batch(keys: Keys, caplog: pytest.LogCaptureFixture) -> None:
    train(keys(max_steps=13, save_strategy="steps", save_steps=13))
    more = {"max_steps": 16, "per_device_train_batch_size": 8, "resume_changed": True, "learning_rate": 2e-3}
    said, done = _planned(keys(**more), caplog)
    assert said == done and done[1] == 16


@pytest.mark.parametrize("given", [{"max_steps": 5}, {"max_steps": 20, "per_device_train_batch_size": 8}])
def test_a_number_of_steps_is_not_answered_with_epochs(tiny_llama: Path, given: dict[str, Any]) -> None:
    """Taken at its word, the advice leads to a run that needs none."""
    args = _args(tiny_llama, learning_rate=1e-4, num_train_epochs=2, **given)
    hint = advise(args, 60, given["max_steps"], 1)
    assert hint is not None and "will teach little" in hint and "num_train_epochs" not in hint
    tried = dict(word.split("=") for word in hint.split() if "=" in word)
    better = _args(tiny_llama, **{**given, "num_train_epochs": 2, **tried})
    assert advise(better, 60, better.training.max_steps, 1) is None
