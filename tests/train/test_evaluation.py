# SPDX-License-Identifier: Apache-2.0
"""Evaluation is the exact mean over the tokens of each set; prediction is what generate gives."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from llamafactory.extras.errors import ConfigError
from llamafactory.extras.text_metrics import text_scores

from .conftest import Keys
from .running import log_of, train


def _results(folder: Path, split: str) -> dict[str, Any]:
    return json.loads((folder / f"{split}_results.json").read_text())


def _rows(path: Path, pairs: list[tuple[str, str]]) -> str:
    path.write_text(json.dumps([{"instruction": a, "output": b} for a, b in pairs]))
    return str(path)


@pytest.fixture
def two_sets(tmp_path: Path) -> tuple[str, str, list[tuple[str, str]], list[tuple[str, str]]]:
    short = [("hi", "yes"), ("who are you", "a model"), ("count", "1 2 3 4 5 6 7 8 9 10")]
    long = [("story", "the quick brown fox jumps over the lazy dog " * 3), ("name", "fox")]
    return _rows(tmp_path / "short.json", short), _rows(tmp_path / "long.json", long), short, long


def _oracle(model: Any, tokenizer: Any, pairs: list[tuple[str, str]]) -> tuple[float, int, int]:
    """Sum of nll, tokens and right tokens of the answers, one row at a time through the model's own logits."""
    total, count, right = 0.0, 0, 0
    for question, answer in pairs:
        messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        prompt = tokenizer.apply_chat_template(messages[:1], add_generation_prompt=True, tokenize=False)
        start = len(tokenizer(prompt)["input_ids"])
        ids = torch.tensor([tokenizer(prompt + answer + "<|im_end|>")["input_ids"]])
        log_p = torch.log_softmax(model(ids).logits[0, start - 1 : -1], -1)
        targets = ids[0, start:]
        total -= log_p.gather(-1, targets[:, None]).sum().item()
        count += len(targets)
        right += int((log_p.argmax(-1) == targets).sum())
    return total, count, right


@pytest.mark.parametrize("batch", [1, 3])
def test_each_set_and_all_together(keys: Keys, tiny_llama: Path, two_sets: Any, batch: int) -> None:
    short_path, long_path, short, long = two_sets
    run = train(
        keys(
            dataset=None,
            eval_dataset=f"{short_path},{long_path}",
            eval_on_each_dataset=True,
            do_train=False,
            do_eval=True,
            per_device_eval_batch_size=batch,
            compute_accuracy=True,
        )
    )
    model = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    results = _results(run, "eval")
    names = sorted(key for key in results if key.endswith("_loss") and key != "eval_loss")
    assert len(names) == 2
    sums = {"long": _oracle(model, tokenizer, long), "short": _oracle(model, tokenizer, short)}
    for name in names:
        loss, count, right = next(value for key, value in sums.items() if key in name)
        assert results[name] == pytest.approx(loss / count, rel=1e-5)
        assert results[name.replace("_loss", "_accuracy")] == pytest.approx(right / count)
    totals = [sum(column) for column in zip(*sums.values(), strict=True)]
    assert results["eval_loss"] == pytest.approx(totals[0] / totals[1], rel=1e-5)


def test_perplexity_of_pretraining(keys: Keys, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("the quick brown fox\nthe lazy dog and the wizards\nwho are you\n" * 4)
    run = train(keys(stage="pt", dataset=str(tmp_path / "text.txt"), val_size=2, do_train=True, do_eval=True))
    results = _results(run, "eval")
    assert results["eval_perplexity"] == pytest.approx(float(torch.tensor(results["eval_loss"]).exp()), rel=1e-5)


def test_predictions_are_what_generate_gives(keys: Keys, tiny_llama: Path, two_sets: Any) -> None:
    """In left-padded batches, although training attention is the isolating one; one line a row, in order."""
    short_path, _, short, _ = two_sets
    run = train(
        keys(
            dataset=None, eval_dataset=short_path, do_train=False, do_predict=True, predict_with_generate=True,
            do_sample=False, max_new_tokens=5, per_device_eval_batch_size=2,
        )
    )  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    rows = [json.loads(line) for line in (run / "generated_predictions.jsonl").read_text().splitlines()]
    assert [row["label"] for row in rows] == [answer for _, answer in short]
    for row, (question, _) in zip(rows, short, strict=True):
        ids = tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], add_generation_prompt=True, return_tensors="pt", return_dict=False
        )
        out = model.generate(ids, max_new_tokens=5, do_sample=False)[0, ids.shape[1] :]
        assert row["predict"] == tokenizer.decode(out, skip_special_tokens=True)
        assert question in row["prompt"]
    assert _results(run, "predict").keys() >= {
        "predict_bleu-4",
        "predict_rouge-1",
        "predict_rouge-2",
        "predict_rouge-l",
    }


def test_scores_during_training_are_those_of_the_checkpoint(keys: Keys, alpaca: Path, tmp_path: Path) -> None:
    generate = {"predict_with_generate": True, "max_new_tokens": 8, "val_size": 6, "learning_rate": 0.05}
    settings = keys(**generate, max_steps=6, eval_strategy="steps", eval_steps=3, save_strategy="steps", save_steps=3)
    run = train(settings)
    state = json.loads((run / "checkpoint-3" / "trainer_state.json").read_text())
    (middle,) = [row for row in state["log_history"] if "eval_loss" in row]
    again = {"do_train": False, "do_eval": True, "adapter_name_or_path": str(run / "checkpoint-3")}
    after = _results(train(keys(**generate, **again, output_dir=str(tmp_path / "after"))), "eval")
    for name in ("eval_loss", "eval_bleu-4", "eval_rouge-1", "eval_rouge-l"):
        assert after[name] == pytest.approx(middle[name], rel=1e-5), name


def test_early_stopping_and_best_model(keys: Keys) -> None:
    """With a learning rate that ruins the model, the first evaluation is the best and is what remains."""
    ruin = {"learning_rate": 30.0, "lr_scheduler_type": "constant", "max_steps": 20, "val_size": 6}
    often = {"eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2}
    best = {"save_total_limit": 1, "load_best_model_at_end": True, "early_stopping_steps": 2}
    run = train(keys(**ruin, **often, **best, do_train=True, do_eval=True))
    losses = [row["eval_loss"] for row in log_of(run) if "eval_loss" in row]
    assert len(losses) - 1 < 10, "training must have stopped early"
    assert losses[-1] == pytest.approx(min(losses)) and losses[-2] > min(losses), "the best model is loaded at the end"
    kept = sorted(path.name for path in run.glob("checkpoint-*"))
    assert len(kept) == 2, "the best and the newest"


def test_early_stopping_watches_the_loss_unless_told_otherwise(keys: Keys) -> None:
    ruin = {"learning_rate": 30.0, "lr_scheduler_type": "constant", "max_steps": 20, "val_size": 6}
    run = train(keys(**ruin, eval_strategy="steps", eval_steps=2, early_stopping_steps=1))
    losses = [row["eval_loss"] for row in log_of(run) if "eval_loss" in row]
    assert losses[-1] >= losses[-2] and all(b < a for a, b in pairwise(losses[:-1])) and len(losses) < 10


def test_text_scores() -> None:
    assert text_scores("the cat sat on the mat", "the cat sat on the mat") == pytest.approx(
        {"bleu-4": 100.0, "rouge-1": 100.0, "rouge-2": 100.0, "rouge-l": 100.0, "exact-match": 100.0}, abs=1e-3
    )
    assert set(text_scores("", "something").values()) == {0.0}
    # 2 of 3 words right: precision 2/3, recall 2/4.
    assert text_scores("a small cat", "a small black dog")["rouge-1"] == pytest.approx(
        100 * 2 * (2 / 3 * 2 / 4) / (7 / 6), abs=1e-3
    )
    chinese = text_scores("我是一个小模型", "我是一个大模型")
    assert 0 < chinese["bleu-4"] < 100 and 0 < chinese["rouge-1"] < 100


RIGHT = "the river is long and wide ."


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        ("Oslo", "Oslo"), ("Oslo .", "Oslo ."), ("Oslo", "Bergen"), ("it is Oslo", "it is Oslo"),
        ("the cat sat on a mat", "the cat is on the mat"), (f"{RIGHT} " * 20, RIGHT), ("yes yes yes", "yes"),
        ("a b", "a b c d e f"),
    ],
)  # fmt: skip
def test_text_scores_against_sacrebleu_and_counting(answer: str, reference: str) -> None:
    from sacrebleu.metrics import BLEU

    found = text_scores(answer, reference)
    bleu = BLEU(effective_order=True, tokenize="none").sentence_score(answer.strip(), [reference]).score
    shared = Counter(answer.split()) & Counter(reference.split())
    wanted = 200 * shared.total() / (len(answer.split()) + len(reference.split()))
    assert found["bleu-4"] == pytest.approx(bleu, abs=0.01) and found["rouge-1"] == pytest.approx(wanted, abs=1e-3)


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        ("是的\n", "是的"),
        ("是的", "\n\n是的 "),
        ("今天 天气 很好。", "今天天气很好。"),
        ("我 是一个小模型", "我是一个大模型"),
        ("好\u3000的", "好的"),
    ],
)
def test_white_space_is_no_unit(answer: str, reference: str) -> None:
    from sacrebleu.metrics import BLEU

    spaced = [" ".join("".join(text.split())) for text in (answer, reference)]
    bleu = BLEU(effective_order=True, tokenize="none").sentence_score(spaced[0], spaced[1:]).score
    assert text_scores(answer, reference)["bleu-4"] == pytest.approx(bleu, abs=0.01)


def test_text_scores_do_not_flatter() -> None:
    assert text_scores("Oslo", "Oslo")["bleu-4"] == 100
    looped = text_scores(f"{RIGHT} " * 20, RIGHT)
    assert looped["rouge-1"] == looped["rouge-l"] == pytest.approx(9.5238, abs=1e-3)
    legacy = text_scores(f"{RIGHT} " * 20, RIGHT, legacy=True)
    assert legacy["rouge-1"] == pytest.approx(100, abs=1e-3)
    assert text_scores("Oslo", "Oslo", legacy=True)["bleu-4"] == pytest.approx(35.36, abs=0.01)


def test_stage_without_predictions(keys: Keys, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("the quick brown fox\nwho are you\n")
    with pytest.raises(ConfigError, match="do_predict"):
        train(keys(stage="pt", dataset=str(tmp_path / "text.txt"), do_train=False, do_predict=True))
