# SPDX-License-Identifier: Apache-2.0
"""The metrics that may be watched are those that an evaluation reports, and a watched one stops no run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llamafactory.extras.errors import ConfigError
from llamafactory.hparams import get_train_args
from llamafactory.hparams.metrics import metrics_of

from .conftest import Keys
from .pairs import judged_set, pair_set
from .rollouts import GRPO, prompt_set
from .running import train

ONCE = {"max_steps": 1, "val_size": 6, "do_train": True, "do_eval": True}


@pytest.mark.parametrize(
    ("stage", "more"),
    [
        ("sft", {"compute_accuracy": True}),
        ("rm", {}),
        ("dpo", {"pref_ftx": 0.1, "pref_bco_weight": 0.1}),
        ("kto", {"pref_ftx": 0.1}),
        ("grpo", {}),
    ],
)
def test_metrics_are_those_of_the_evaluation(keys: Keys, tmp_path: Path, stage: str, more: dict[str, Any]) -> None:
    sets = {"rm": pair_set, "dpo": pair_set, "kto": judged_set, "grpo": lambda path: {**prompt_set(path), **GRPO}}
    settings = keys(**{"stage": stage, **sets.get(stage, lambda _: {})(tmp_path), **ONCE, **more})  # type: ignore[operator]
    results = json.loads((train(settings) / "eval_results.json").read_text("utf-8"))
    reported = {name.removeprefix("eval_") for name in results} - {"runtime", "samples_per_second", "epoch"}
    rewards = {name for name in reported if name.startswith("reward/")}
    assert reported - rewards == set(metrics_of(get_train_args({**settings, "output_dir": str(tmp_path / "x")})))


def test_an_unknown_metric_is_said_before_the_run(keys: Keys) -> None:
    with pytest.raises(ConfigError, match=r"^metric_for_best_model: stage sft reports no 'f1' here; expected .* loss$"):
        train(keys(metric_for_best_model="f1", model_name_or_path="/no/such/model"))


@pytest.mark.parametrize(
    "more",
    [
        {"lr_scheduler_type": "reduce_lr_on_plateau", "lr_scheduler_kwargs": {"patience": "0"}},
        {"save_strategy": "best"},
        {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr": "1e-6"}},
    ],
    ids=str,
)
def test_what_watches_a_metric_runs(keys: Keys, more: dict[str, Any]) -> None:
    train(keys(**{"max_steps": 2, "eval_strategy": "steps", "eval_steps": 1, "val_size": 6, **more}))


def test_early_stopping_of_rewarded_answers_watches_the_reward(keys: Keys, tmp_path: Path) -> None:
    sets = {**prompt_set(tmp_path), **GRPO, "stage": "grpo", "early_stopping_steps": 1}
    train(keys(**{**sets, "max_steps": 2, "val_size": 5, "eval_strategy": "steps", "eval_steps": 1}))
