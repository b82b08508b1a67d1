# SPDX-License-Identifier: Apache-2.0
"""Stage dpo: TRL's own trajectory, the reference, the metrics, the rows that are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from llamafactory.data.processor import PairwiseProcessor
from llamafactory.extras.errors import ConfigError
from llamafactory.plugins import LOSSES

from .conftest import Keys
from .pairs import answers, features, pair_set
from .running import log_of, train, train_elsewhere, weights_of

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def dpo(keys: Keys, tmp_path: Path) -> Keys:
    """Keys of a quick run on pairs."""
    sets = pair_set(tmp_path)
    return lambda **more: keys(**{"stage": "dpo", **sets, **more})


def _losses(run: Path, key: str = "loss") -> list[float]:
    return [row[key] for row in log_of(run) if "loss" in row]


def _trl(given: dict[str, Any], folder: Path, **options: Any) -> list[dict[str, float]]:
    """Train with TRL on the same token ids in the same order; return its logs."""
    from datasets import Dataset
    from torch.utils.data import SequentialSampler
    from trl import DPOConfig, DPOTrainer

    class SameIds(DPOTrainer):
        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            return dataset

        def _get_train_sampler(self, dataset: Any = None) -> Any:
            return SequentialSampler(self.train_dataset)

    rows = []
    for row in features(given, PairwiseProcessor()):
        (prompt, chosen), (same, rejected) = answers(row)
        assert prompt == same
        rows.append({"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected})
    arguments = DPOConfig(
        output_dir=str(folder), max_steps=10, learning_rate=given["learning_rate"], per_device_train_batch_size=4,
        logging_steps=1, save_strategy="no", report_to="none", bf16=False, gradient_checkpointing=False, use_cpu=True,
        disable_tqdm=True, max_length=None, lr_scheduler_type="linear", optim="adamw_torch", **options,
    )  # fmt: skip
    name = given["model_name_or_path"]
    trainer = SameIds(
        AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32),
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(name),
    )
    trainer.train()
    return [row for row in trainer.state.log_history if "loss" in row]


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({}, {}),
        ({"pref_loss": "ipo"}, {"loss_type": ["ipo"]}),
        ({"ld_alpha": 0.5, "padding_free": False}, {"ld_alpha": 0.5}),
    ],
    ids=str,
)
def test_ten_steps_are_those_of_trl(dpo: Keys, tmp_path: Path, ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    given = dpo(
        finetuning_type="full", max_steps=10, disable_shuffling=True, lr_scheduler_type="linear", optim="adamw_torch",
        learning_rate=1e-3, **ours,
    )  # fmt: skip
    expected = _trl(given, tmp_path / "trl", beta=0.1, **theirs)
    run = train(given)
    assert _losses(run) == pytest.approx([row["loss"] for row in expected], abs=1e-4)
    assert abs(_losses(run)[0] - _losses(run)[-1]) > 0.01
    for key in ("rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies"):
        assert _losses(run, key) == pytest.approx([row[key] for row in expected], abs=1e-4)
    if "ld_alpha" not in ours:
        assert _losses(run, "logps/chosen") == pytest.approx([row["logps/chosen"] for row in expected], rel=1e-4)


def test_however_a_step_is_cut(dpo: Keys, tmp_path: Path) -> None:
    """Padding-free = padded, one batch of 4 = 4 batches of 1; the reference of a fresh adapter is the model below."""
    runs = [
        train(dpo(output_dir=str(tmp_path / name), pref_ftx=0.3, **more))
        for name, more in {
            "free": {},
            "padded": {"padding_free": False},
            "cut": {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4},
            "named": {"ref_model": dpo()["model_name_or_path"]},
        }.items()
    ]
    first = _losses(runs[0])
    for run in runs[1:]:
        assert _losses(run) == pytest.approx(first, abs=1e-5)
        for key in ("rewards/margins", "losses/sft"):
            assert _losses(run, key) == pytest.approx(_losses(runs[0], key), abs=1e-5)
    assert _losses(runs[0], "rewards/margins")[0] == 0.0
    assert first[0] == pytest.approx(0.693147 + 0.3 * _losses(runs[0], "losses/sft")[0], abs=1e-5)


@pytest.mark.parametrize("cached", [False, True], ids=["live", "cached"])
def test_the_first_margin_is_zero_in_bfloat16(dpo: Keys, cached: bool) -> None:
    """A fresh adapter adds nothing, so the policy is the reference, to the last bit of every rounding."""
    run = train(dpo(bf16=True, max_steps=3, cache_ref_log_probs=cached, learning_rate=1e-2))
    margins = _losses(run, "rewards/margins")
    assert margins[0] == 0.0 and margins[2] != 0.0


def test_a_continued_adapter_is_its_own_reference(dpo: Keys, tmp_path: Path) -> None:
    first = train(dpo(output_dir=str(tmp_path / "first"), max_steps=8))
    second = train(dpo(output_dir=str(tmp_path / "second"), adapter_name_or_path=str(first), max_steps=3))
    assert _losses(second)[0] == pytest.approx(0.693147, abs=1e-5)
    before, after = weights_of(first), weights_of(second)
    assert any(not torch.equal(before[name], after[name]) for name in before)
    plain = train(
        dpo(
            output_dir=str(tmp_path / "named"), adapter_name_or_path=str(first), max_steps=3,
            ref_model_adapters=str(first),
        )
    )  # fmt: skip
    assert _losses(plain) == pytest.approx(_losses(second), abs=1e-5)


@pytest.mark.parametrize(
    "name",
    [name if name in ("sigmoid", "orpo", "simpo") else pytest.param(name, marks=pytest.mark.slow) for name in LOSSES],
)
def test_the_example_trains_with_every_loss(
    tiny_llama: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The example's own keys and data; only the model is a tiny one, and few rows are seen."""
    from llamafactory.train.tuner import run_exp

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    words = ["examples/train_lora/smollm2_lora_dpo.yaml", f"pref_loss={name}", f"model_name_or_path={tiny_llama}"]
    words += [f"output_dir={tmp_path}", "template=chatml", "bf16=false", "max_samples=4", "max_steps=8"]
    words += ["learning_rate=1e-3", "plot_loss=false", "eval_strategy=no", "disable_tqdm=true"]
    run_exp(words + (["dpo_label_smoothing=0.001"] if name == "exo_pair" else []))
    assert _losses(tmp_path)[-1] < _losses(tmp_path)[0]


def test_bco_goes_on_after_a_resume(dpo: Keys, tmp_path: Path) -> None:
    more = {"pref_bco_weight": 0.5, "save_strategy": "steps", "save_steps": 3, "max_steps": 6}
    whole = train(dpo(output_dir=str(tmp_path / "whole"), **more))
    checkpoint = str(whole / "checkpoint-3")
    rest = train(dpo(output_dir=str(tmp_path / "rest"), resume_from_checkpoint=checkpoint, **more))
    assert _losses(rest, "losses/bco") == _losses(whole, "losses/bco")[3:]


def test_evaluation_has_the_same_metrics(dpo: Keys, tmp_path: Path) -> None:
    run = train(
        dpo(
            max_steps=3, val_size=7, do_train=True, do_eval=True, eval_strategy="steps", eval_steps=3,
            per_device_eval_batch_size=4, plot_loss=True, learning_rate=1e-2,
        )
    )  # fmt: skip
    results = json.loads((run / "eval_results.json").read_text())
    trained = {key for key in log_of(run)[0] if "rewards/" in key or "logps/" in key}
    assert {f"eval_{key}" for key in trained} <= set(results)
    assert results["eval_rewards/accuracies"] * 7 == pytest.approx(round(results["eval_rewards/accuracies"] * 7))
    margin = results["eval_rewards/chosen"] - results["eval_rewards/rejected"]
    assert margin == pytest.approx(results["eval_rewards/margins"], abs=1e-6)
    assert (run / "training_rewards_margins.png").is_file()


GOOD = {"instruction": "who", "chosen": "a fox", "rejected": "a star"}
BAD = {
    "equal": ({**GOOD, "rejected": "a fox"}, "row 2: chosen and rejected are the same answer"),
    "empty": ({**GOOD, "chosen": "  "}, "row 2: the chosen answer is empty"),
    "wrong type": ({**GOOD, "rejected": 7}, "row 2: field 'rejected' is 7, expected the text of an answer"),
    "missing": ({"instruction": "who", "chosen": "x"}, "row 2: missing column 'rejected'"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_pairs_are_named_by_row(keys: Keys, tmp_path: Path, name: str) -> None:
    row, message = BAD[name]
    sets = pair_set(tmp_path, [GOOD, row, GOOD])
    with pytest.raises(ConfigError, match=message):
        train(keys(stage="dpo", **sets))


def test_rows_without_pairs_say_what_is_missing(keys: Keys) -> None:
    with pytest.raises(ConfigError, match=r"row 1: no pair of answers; set ranking: true"):
        train(keys(stage="dpo"))


@pytest.mark.parametrize("cutoff", [16, 24, 40])
def test_long_pairs_keep_one_prompt_and_the_start_of_both_answers(dpo: Keys, cutoff: int) -> None:
    whole = features(dpo(), PairwiseProcessor())
    cut = features(dpo(cutoff_len=cutoff), PairwiseProcessor())
    assert max(max(lengths) for lengths in cut["seq_lens"]) <= cutoff
    by_answer = {tuple(answers(row)[0][1]): answers(row) for row in whole}
    for row in cut:
        (prompt, chosen), (same, rejected) = answers(row)
        assert prompt == same
        full = next(value for key, value in by_answer.items() if key[: len(chosen)] == tuple(chosen)
                    and value[1][1][: len(rejected)] == rejected)  # fmt: skip
        assert len(prompt) <= len(full[0][0])
    kept = features(dpo(cutoff_len=cutoff, overlong="drop"), PairwiseProcessor()) if cutoff > 30 else whole
    assert all(row in list(whole) for row in kept)


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_cached_reference_is_the_live_one(dpo: Keys, tmp_path: Path, kind: str) -> None:
    more = {"finetuning_type": kind, "val_size": 6, "do_train": True, "do_eval": True, "max_steps": 10}
    live = {"cache_ref_log_probs": False}
    runs = [
        train(dpo(output_dir=str(tmp_path / name), ld_alpha=0.5, **(live if name == "live" else {}), **more))
        for name in ("live", "cached", "again")
    ]
    assert len(list((tmp_path / "cache").rglob("reference-*.safetensors"))) == 2
    results = [json.loads((run / "eval_results.json").read_text()) for run in runs]
    for run, result in zip(runs[1:], results[1:], strict=True):
        for key in ("loss", "rewards/margins"):
            assert _losses(run, key) == pytest.approx(_losses(runs[0], key), abs=1e-5)
            assert result[f"eval_{key}"] == pytest.approx(results[0][f"eval_{key}"], abs=1e-5)


def test_a_run_that_leaves_rows_out_does_not_score_them_before(dpo: Keys, tmp_path: Path) -> None:
    train(dpo(max_steps=9))
    assert not list((tmp_path / "cache").rglob("reference-*.safetensors"))


@pytest.mark.slow
def test_two_ranks_are_one(dpo: Keys, tmp_path: Path) -> None:
    more = {"pref_ftx": 0.2, "max_steps": 3, "val_size": 7, "do_train": True, "do_eval": True}
    one = train(dpo(output_dir=str(tmp_path / "one"), **more))
    given = dpo(output_dir=str(tmp_path / "two"), per_device_train_batch_size=2, cache_ref_log_probs=True, **more)
    done = train_elsewhere(given, ranks=2)
    assert done.returncode == 0, done.stderr[-2000:]
    two = Path(given["output_dir"])
    for key in ("loss", "rewards/margins", "losses/sft", "logps/chosen"):
        assert _losses(two, key) == pytest.approx(_losses(one, key), abs=1e-5, rel=1e-5)
    results = [json.loads((run / "eval_results.json").read_text()) for run in (one, two)]
    for key in ("eval_loss", "eval_rewards/margins", "eval_rewards/accuracies"):
        assert results[1][key] == pytest.approx(results[0][key], abs=1e-5)
