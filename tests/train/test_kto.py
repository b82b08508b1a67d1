# SPDX-License-Identifier: Apache-2.0
"""Stage kto: TRL's own trajectory with mismatched answers, the weights, the rows that are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from llamafactory.data.processor import FeedbackProcessor
from llamafactory.extras.errors import ConfigError

from .conftest import Keys
from .pairs import answers, features, judged_set
from .running import log_of, train, train_elsewhere


@pytest.fixture
def kto(keys: Keys, tmp_path: Path) -> Keys:
    """Keys of a quick run on judged answers."""
    sets = judged_set(tmp_path)
    return lambda **more: keys(**{"stage": "kto", **sets, **more})


def _losses(run: Path, key: str = "loss") -> list[float]:
    return [row.get(key, 0.0) for row in log_of(run) if "loss" in row]  # a side may have no answer in a step


def test_ten_steps_are_those_of_trl(kto: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from datasets import Dataset
    from torch.utils.data import SequentialSampler
    from trl import KTOConfig, KTOTrainer

    class SameIds(KTOTrainer):
        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            return dataset

        def _get_train_sampler(self, dataset: Any = None) -> Any:
            return SequentialSampler(self.train_dataset)

    given = kto(
        finetuning_type="full", max_steps=10, disable_shuffling=True, lr_scheduler_type="linear", optim="adamw_torch",
        kto_chosen_weight=1.2, kto_rejected_weight=0.7,
    )  # fmt: skip
    rows = []
    for row in features(given, FeedbackProcessor()):
        (prompt, answer), (same, other) = answers(row)
        assert prompt == same
        rows.append(
            {
                "prompt_ids": prompt, "completion_ids": answer, "KL_completion_ids": other,
                "label": bool(row["desirable"][0]),
            }
        )  # fmt: skip
    assert rows[0]["KL_completion_ids"] == rows[1]["completion_ids"]
    arguments = KTOConfig(
        output_dir=str(tmp_path / "trl"), max_steps=10, learning_rate=given["learning_rate"], logging_steps=1,
        per_device_train_batch_size=4, save_strategy="no", report_to="none", bf16=False, gradient_checkpointing=False,
        use_cpu=True, disable_tqdm=True, max_length=None, lr_scheduler_type="linear", optim="adamw_torch",
        beta=0.1, desirable_weight=1.2, undesirable_weight=0.7,
    )  # fmt: skip
    name = given["model_name_or_path"]
    theirs = SameIds(
        AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32),
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(name),
    )
    theirs.train()
    expected = [row for row in theirs.state.log_history if "loss" in row]
    run = train(given)
    assert _losses(run) == pytest.approx([row["loss"] for row in expected], abs=1e-4)
    for key in ("kl", "rewards/chosen", "rewards/rejected"):
        wanted = [(number, row[key]) for number, row in enumerate(expected) if key in row]
        assert len(wanted) >= 8
        assert [_losses(run, key)[number] for number, _ in wanted] == pytest.approx([v for _, v in wanted], abs=1e-4)
    assert max(abs(value) for value in _losses(run, "rewards/chosen")) > 0.01


def test_padding_free_is_padded(kto: Keys, tmp_path: Path) -> None:
    runs = [
        train(kto(output_dir=str(tmp_path / name), pref_ftx=0.2, padding_free=free, learning_rate=1e-2))
        for name, free in (("free", None), ("padded", False))
    ]
    for key in ("loss", "kl", "rewards/chosen", "losses/sft"):
        assert _losses(runs[0], key) == pytest.approx(_losses(runs[1], key), abs=1e-5)


def test_evaluation_averages_each_side_over_its_own(kto: Keys) -> None:
    run = train(kto(max_steps=4, val_size=9, do_train=True, do_eval=True, per_device_eval_batch_size=4))
    results = json.loads((run / "eval_results.json").read_text())
    sides = {"eval_rewards/chosen", "eval_rewards/rejected", "eval_logps/chosen", "eval_logps/rejected"}
    assert {"eval_loss", "eval_kl", "eval_entropy", *sides} <= set(results)
    margin = results["eval_rewards/chosen"] - results["eval_rewards/rejected"]
    assert results["eval_rewards/margins"] == pytest.approx(margin, abs=1e-6)
    assert results["eval_rewards/accuracies"] * 9 == pytest.approx(round(results["eval_rewards/accuracies"] * 9))
    assert not [key for key in results if ":" in key]


GOOD = {"instruction": "who", "output": "a fox", "good": True}
BAD = {
    "verdict": ({**GOOD, "good": "maybe"}, "row 2: field 'good' is 'maybe', expected true or false"),
    "empty": ({**GOOD, "output": " "}, "row 2: the answer is empty"),
    "none": ({"instruction": "who", "good": True}, "row 2: the last turn is not an answer"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_rows_are_named(keys: Keys, tmp_path: Path, name: str) -> None:
    row, message = BAD[name]
    with pytest.raises(ConfigError, match=message):
        train(keys(stage="kto", **judged_set(tmp_path, [GOOD, row, GOOD])))


def test_rows_without_verdict_say_what_is_missing(keys: Keys) -> None:
    with pytest.raises(ConfigError, match=r"row 1: no verdict; name the column kto_tag"):
        train(keys(stage="kto"))


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_cached_reference_is_the_live_one(kto: Keys, tmp_path: Path, kind: str) -> None:
    more = {"finetuning_type": kind, "val_size": 6, "do_train": True, "do_eval": True, "max_steps": 10}
    live = {"cache_ref_log_probs": False}
    runs = [
        train(kto(output_dir=str(tmp_path / name), **(live if name == "live" else {}), **more))
        for name in ("live", "cached", "again")
    ]
    assert len(list((tmp_path / "cache").rglob("reference-*.safetensors"))) == 2
    results = [json.loads((run / "eval_results.json").read_text()) for run in runs]
    for run, result in zip(runs[1:], results[1:], strict=True):
        for key in ("loss", "kl"):
            assert _losses(run, key) == pytest.approx(_losses(runs[0], key), abs=1e-5)
            assert result[f"eval_{key}"] == pytest.approx(results[0][f"eval_{key}"], abs=1e-5)


@pytest.mark.slow
def test_two_ranks_are_one(kto: Keys, tmp_path: Path) -> None:
    more = {"max_steps": 3, "learning_rate": 1e-2}
    one = train(kto(output_dir=str(tmp_path / "one"), **more))
    given = kto(output_dir=str(tmp_path / "two"), per_device_train_batch_size=2, **more)
    done = train_elsewhere(given, ranks=2)
    assert done.returncode == 0, done.stderr[-2000:]
    for key in ("loss", "kl", "rewards/chosen", "rewards/rejected"):
        assert _losses(Path(given["output_dir"]), key) == pytest.approx(_losses(one, key), abs=1e-5)
