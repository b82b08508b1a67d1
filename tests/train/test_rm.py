# SPDX-License-Identifier: Apache-2.0
"""Stage rm: TRL's own trajectory, and a model that plain transformers loads and scores with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from llamafactory.data.processor import PairwiseProcessor
from llamafactory.extras.errors import ConfigError
from llamafactory.train.sequence_scores import last_tokens

from .conftest import Keys
from .pairs import features, pair_set
from .running import log_of, train, train_elsewhere


@pytest.fixture
def rm(keys: Keys, tmp_path: Path) -> Keys:
    """Keys of a quick run on pairs."""
    sets = pair_set(tmp_path)
    return lambda **more: keys(**{"stage": "rm", **sets, **more})


def _sequences(rows: Any) -> list[list[int]]:
    """Return chosen 0, rejected 0, chosen 1, … as token ids."""
    found = []
    for row in rows:
        first, second = row["seq_lens"]
        found += [row["input_ids"][:first], row["input_ids"][first : first + second]]
    return found


def test_ten_steps_are_those_of_trl(rm: Keys, tiny_llama: Path, tmp_path: Path) -> None:
    from datasets import Dataset
    from torch.utils.data import SequentialSampler
    from trl import RewardConfig, RewardTrainer

    class SameIds(RewardTrainer):
        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            return dataset

        def _get_train_sampler(self, dataset: Any = None) -> Any:
            return SequentialSampler(self.train_dataset)

    start = tmp_path / "start"
    torch.manual_seed(1)
    model = AutoModelForSequenceClassification.from_pretrained(tiny_llama, num_labels=1, dtype=torch.float32)
    model.save_pretrained(start)
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    tokenizer.save_pretrained(start)
    given = rm(
        model_name_or_path=str(start), finetuning_type="full", max_steps=10, disable_shuffling=True,
        lr_scheduler_type="linear", optim="adamw_torch",
    )  # fmt: skip
    sequences = _sequences(features(given, PairwiseProcessor()))
    rows = [{"chosen_ids": a, "rejected_ids": b} for a, b in zip(sequences[::2], sequences[1::2], strict=True)]
    arguments = RewardConfig(
        output_dir=str(tmp_path / "trl"), max_steps=10, learning_rate=given["learning_rate"], logging_steps=1,
        per_device_train_batch_size=4, save_strategy="no", report_to="none", bf16=False, gradient_checkpointing=False,
        use_cpu=True, disable_tqdm=True, max_length=None, lr_scheduler_type="linear", optim="adamw_torch",
        disable_dropout=True,
    )  # fmt: skip
    theirs = SameIds(model, args=arguments, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)
    theirs.train()
    expected = [row for row in theirs.state.log_history if "loss" in row]
    logs = [row for row in log_of(train(given)) if "loss" in row]
    assert [row["loss"] for row in logs] == pytest.approx([row["loss"] for row in expected], abs=1e-4)
    assert [row["rewards/accuracies"] for row in logs] == [row["accuracy"] for row in expected]
    assert logs[-1]["loss"] < logs[0]["loss"] - 0.05


@pytest.mark.parametrize(
    "more", [{}, {"padding_free": False}, {"finetuning_type": "full"}, {"finetuning_type": "freeze"}], ids=str
)
def test_plain_transformers_gives_the_same_scores(rm: Keys, tiny_llama: Path, more: dict[str, Any]) -> None:
    run = train(rm(max_steps=20, val_size=8, do_train=True, do_eval=True, learning_rate=5e-3, **more))
    results = json.loads((run / "eval_results.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(run)
    if (run / "adapter_config.json").exists():
        from peft import PeftModel

        base = AutoModelForSequenceClassification.from_pretrained(tiny_llama, num_labels=1, dtype=torch.float32)
        model: Any = PeftModel.from_pretrained(base, run)
    else:
        model = AutoModelForSequenceClassification.from_pretrained(run, dtype=torch.float32)
    assert model.config.num_labels == 1
    from llamafactory.data.loader import get_dataset
    from llamafactory.data.template_loader import get_template
    from llamafactory.hparams import get_train_args

    args = get_train_args(rm(output_dir=str(run / "again"), val_size=8))
    rows = get_dataset(PairwiseProcessor(), get_template(tokenizer, args.data), tokenizer, args).eval[""]
    with torch.no_grad():
        padded = tokenizer.pad({"input_ids": _sequences(rows)}, padding_side="right", return_tensors="pt")
        scores = model.eval()(**padded).logits.squeeze(-1)
    chosen, rejected = scores[::2], scores[1::2]
    assert results["eval_rewards/chosen"] == pytest.approx(chosen.mean().item(), abs=1e-5)
    assert results["eval_rewards/rejected"] == pytest.approx(rejected.mean().item(), abs=1e-5)
    assert results["eval_rewards/accuracies"] == pytest.approx((chosen > rejected).float().mean().item())
    assert results["eval_loss"] == pytest.approx(-torch.nn.functional.logsigmoid(chosen - rejected).mean().item())
    assert scores.std() > 0.05


MARGINS = [
    {"instruction": f"question {n}", "chosen": f"a fox {n}", "rejected": "a star", "margin": n / 4} for n in range(8)
]


def test_margins_of_the_rows_and_centring_are_in_the_loss(rm: Keys, tmp_path: Path) -> None:
    """The closed form on the scores that plain transformers gives before the first step."""
    start = tmp_path / "start"
    torch.manual_seed(1)
    model = AutoModelForSequenceClassification.from_pretrained(rm()["model_name_or_path"], num_labels=1)
    torch.nn.init.normal_(model.score.weight, std=0.5)
    model.save_pretrained(start)
    tokenizer = AutoTokenizer.from_pretrained(rm()["model_name_or_path"])
    tokenizer.save_pretrained(start)
    sets = pair_set(tmp_path, MARGINS, margin="margin")
    given = rm(
        model_name_or_path=str(start), finetuning_type="full", max_steps=1, per_device_train_batch_size=8,
        center_rewards_coefficient=0.3, **sets,
    )  # fmt: skip
    rows = features(given, PairwiseProcessor())
    padded = tokenizer.pad({"input_ids": _sequences(rows)}, padding_side="right", return_tensors="pt")
    with torch.no_grad():
        scores = model.eval()(**padded).logits.squeeze(-1)
    chosen, rejected, margin = scores[::2], scores[1::2], torch.arange(8) / 4
    assert [value for row in rows for value in row["margin"]] == margin.tolist()
    pull = 0.3 * (chosen + rejected).square().mean()
    expected = -torch.log(torch.sigmoid(chosen - rejected - margin)).mean() + pull
    log = log_of(train(given))[0]
    assert log["loss"] == pytest.approx(expected.item(), abs=1e-5)
    assert log["rewards/mean"] == pytest.approx(scores.mean().item(), abs=1e-5)


def test_a_margin_that_is_no_number_is_named_by_row(rm: Keys, tmp_path: Path) -> None:
    rows = [MARGINS[0], {**MARGINS[1], "margin": "much"}]
    with pytest.raises(ConfigError, match=r"row 2: field 'margin' is 'much', expected a number"):
        train(rm(**pair_set(tmp_path, rows, margin="margin")))


@pytest.mark.slow
def test_two_ranks_are_one(rm: Keys, tmp_path: Path) -> None:
    # From one start: the score layer is drawn at random.
    start = str(train(rm(output_dir=str(tmp_path / "start"), finetuning_type="full", max_steps=1)))
    more = {"model_name_or_path": start, "max_steps": 3, "val_size": 7, "do_train": True, "do_eval": True}
    one = train(rm(output_dir=str(tmp_path / "one"), **more))
    given = rm(output_dir=str(tmp_path / "two"), per_device_train_batch_size=2, **more)
    done = train_elsewhere(given, ranks=2)
    assert done.returncode == 0, done.stderr[-2000:]
    logs = [[row for row in log_of(run) if "loss" in row] for run in (Path(given["output_dir"]), one)]
    for mine, theirs in zip(*logs, strict=True):
        for key in ("loss", "rewards/chosen", "rewards/margins"):
            assert mine[key] == pytest.approx(theirs[key], abs=1e-5)
    results = [json.loads((run / "eval_results.json").read_text()) for run in (Path(given["output_dir"]), one)]
    for key in ("eval_loss", "eval_rewards/margins", "eval_rewards/accuracies"):
        assert results[0][key] == pytest.approx(results[1][key], abs=1e-5)


def test_the_score_is_read_before_a_padding_token_that_ends_the_turn() -> None:
    line = torch.tensor([[5, 6, 0, 7, 0, 0, 8]])
    assert last_tokens(line, torch.tensor([0, 3, 6, 7]), 0).tolist() == [1, 3, 6]
    assert last_tokens(torch.tensor([[5, 6, 0], [7, 0, 0]]), None, 0).tolist() == [1, 3]
