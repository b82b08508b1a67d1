# SPDX-License-Identifier: Apache-2.0
"""Stage reranker: losses of transformers' own scores of pairs, however a step is cut; a border between the texts."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from llamafactory.data.pairs import separate_pairs
from llamafactory.extras.errors import ConfigError
from llamafactory.train.metrics.ranking import mean_ranking

from .conftest import Keys
from .running import log_of, train, train_elsewhere

_WORDS = "who are you what is the name of a river story star number fox rain world please write think answer".split()  # noqa: SIM905
_SGD = {"optim": "sgd", "learning_rate": 0.05, "max_grad_norm": 0.0, "lr_scheduler_type": "constant"}


def _rows(graded: bool, count: int = 16) -> list[dict[str, Any]]:
    draw = random.Random(0)

    def text() -> str:
        return " ".join(draw.choices(_WORDS, k=draw.randint(1, 9)))

    rows: list[dict[str, Any]] = []
    for number in range(count):
        if graded:
            scores = [float(draw.randint(0, 2)) for _ in range(2 + number % 3)]
            rows.append({"query": text(), "positive": [text() for _ in scores], "score": scores})
        else:
            rows.append({"query": text(), "positive": text(), "negative": [text() for _ in range(1 + number % 3)]})
    return rows


def _documents(row: dict[str, Any]) -> tuple[list[str], list[float]]:
    if "score" in row:
        return row["positive"], row["score"]
    return [row["positive"], *row["negative"]], [1.0] + [0.0] * len(row["negative"])


@pytest.fixture
def start(tiny_llama: Path, tmp_path: Path) -> Path:
    torch.manual_seed(1)
    model = AutoModelForSequenceClassification.from_pretrained(tiny_llama, num_labels=1, dtype=torch.float32)
    model.save_pretrained(tmp_path / "start")
    AutoTokenizer.from_pretrained(tiny_llama).save_pretrained(tmp_path / "start")
    return tmp_path / "start"


@pytest.fixture
def rerank(keys: Keys, start: Path, tmp_path: Path) -> Keys:
    """Keys of a quick run on queries and documents."""

    def build(graded: bool = False, **more: Any) -> dict[str, Any]:
        path = tmp_path / f"documents-{graded}.json"
        path.write_text(json.dumps(_rows(graded)), encoding="utf-8")
        given = {"stage": "reranker", "dataset": str(path), "disable_shuffling": True, "finetuning_type": "full"}
        given["model_name_or_path"] = str(start)
        return keys(**{**given, "per_device_train_batch_size": 8, "max_steps": 2, **_SGD, **more})

    return build


def _score(model: Any, tokenizer: Any, query: str, document: str) -> torch.Tensor:
    ids = tokenizer(query, add_special_tokens=False).input_ids
    ids = ids + tokenizer("\n").input_ids + tokenizer(document, add_special_tokens=False).input_ids
    return model(torch.tensor([ids])).logits[0, 0]


def _reference(folder: Path, graded: bool) -> dict[str, torch.Tensor]:
    """Weights after two steps on the scores of transformers, pair by pair: a mean over documents, or over queries."""
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for step in (0, 8):
        losses = []
        for row in _rows(graded)[step : step + 8]:
            documents, grades = _documents(row)
            scores = torch.stack([_score(model, tokenizer, row["query"], text) for text in documents])
            wanted = torch.tensor(grades)
            if not graded:
                losses += [*torch.nn.functional.binary_cross_entropy_with_logits(scores, wanted, reduction="none")]
            elif sum(grades):
                losses.append(-(wanted / wanted.sum() * torch.log_softmax(scores, 0)).sum())
        torch.stack(losses).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.state_dict()


@pytest.mark.parametrize("graded", [False, True], ids=("pointwise", "listwise"))
def test_steps_are_those_of_the_equation_however_they_are_cut(
    graded: bool, rerank: Keys, start: Path, tmp_path: Path
) -> None:
    expected = _reference(start, graded)
    loss = {"reranker_loss": "listwise" if graded else "pointwise"}
    cuts: list[dict[str, Any]] = [{}, {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}]
    cuts.append({"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4, "padding_free": False})
    for number, cut in enumerate(cuts):
        run = train(rerank(graded, **loss, **cut, output_dir=str(tmp_path / f"run-{number}")))
        for name, weight in load_file(run / "model.safetensors").items():
            torch.testing.assert_close(weight, expected[name], rtol=0, atol=1e-6, msg=f"{cut} {name}")


@pytest.mark.slow
def test_two_ranks_are_one_and_figures_are_those_of_the_scores(rerank: Keys, tmp_path: Path) -> None:
    held = tmp_path / "held.json"
    held.write_text(json.dumps(_rows(False, 7)), encoding="utf-8")
    given = rerank(
        per_device_train_batch_size=4, eval_dataset=str(held), eval_strategy="steps", eval_steps=2,
        per_device_eval_batch_size=2,
    )  # fmt: skip
    alone = train(given | {"gradient_accumulation_steps": 2, "output_dir": str(tmp_path / "one")})
    done = train_elsewhere(given | {"output_dir": str(tmp_path / "two")}, ranks=2)
    assert done.returncode == 0, done.stderr[-2000:]
    names = ("eval_loss", "eval_ndcg_at_10", "eval_mrr_at_10", "eval_recall_at_10")
    assert all(any(key in row for row in log_of(alone)) for key in ("loss", "grad_norm", *names))
    for one, two in zip(log_of(alone), log_of(tmp_path / "two"), strict=True):
        for key in ("loss", "grad_norm", *names):
            assert (one.get(key) or 0.0) == pytest.approx(two.get(key) or 0.0, rel=1e-5), key
    model = AutoModelForSequenceClassification.from_pretrained(alone, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(alone)
    found = []
    with torch.no_grad():
        for row in _rows(False, 7):
            documents, grades = _documents(row)
            scores = [model(**tokenizer(row["query"], text, return_tensors="pt")).logits[0, 0] for text in documents]
            found.append((torch.stack(scores), torch.tensor(grades)))
    evaluated = next(row for row in log_of(alone) if "eval_loss" in row)
    for name, value in mean_ranking(found).items():
        assert evaluated[f"eval_{name}"] == pytest.approx(value), name


def test_an_adapter_is_served_and_exported_with_its_scores(rerank: Keys, tiny_llama: Path, tmp_path: Path) -> None:
    from llamafactory.hparams import get_infer_args
    from llamafactory.model import load_model, load_tokenizer
    from llamafactory.model.heads import head_for
    from llamafactory.model.reward import score_texts
    from llamafactory.train.tuner import export_model

    given = rerank(
        model_name_or_path=str(tiny_llama), finetuning_type="lora", lora_rank=4, optim="adamw_torch",
        learning_rate=5e-3, max_steps=4, save_strategy="steps", save_steps=2, save_total_limit=1,
    )  # fmt: skip
    run = train(given)
    served = {"model_name_or_path": str(tiny_llama), "adapter_name_or_path": str(run), "stage": "reranker"}
    args = get_infer_args({**served, "infer_dtype": "float32"})
    tokenizer = load_tokenizer(args.model)
    ours = load_model(tokenizer, args, trainable=False, head=head_for(args))
    pairs = [("one", " two three"), ("one two", " three"), ("who are you", "a star")]
    scores = score_texts(ours, tokenizer, pairs)
    assert scores[0] != scores[1]  # without a border they would be the same tokens
    export_model({**given, "adapter_name_or_path": str(run), "export_dir": str(tmp_path / "merged")})
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    theirs = AutoTokenizer.from_pretrained(tmp_path / "merged")
    with torch.no_grad():
        wanted = [float(plain(**theirs(*pair, return_tensors="pt")).logits) for pair in pairs]
    assert scores == pytest.approx(wanted, abs=1e-5)
    resumed = train({**given, "max_steps": 5, "resume_from_checkpoint": str(run / "checkpoint-4")})
    assert log_of(resumed)[-1]["current_steps"] == 5


def test_the_border_is_saved_and_single_texts_stay(smollm2: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    single = tokenizer("who are you?").input_ids
    separate_pairs(tokenizer)
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    separate_pairs(again)  # it has one: nothing changes
    assert again("who are you?").input_ids == tokenizer("who are you?").input_ids == single
    assert again("one", "two").input_ids == again("one\n").input_ids + again("two").input_ids


@pytest.mark.parametrize(
    ("row", "more", "message"),
    [
        ({"query": "a", "positive": ["b", "c"], "score": [0, 2]}, {}, "pointwise takes scores from 0 to 1, and a row"),
        ({"query": "a", "positive": "b", "score": -1}, {"reranker_loss": "listwise"}, "and a row has -1"),
        ({"text": "a", "label": "b"}, {}, "no column holds documents"),
    ],
)
def test_what_cannot_be_learned_is_said(
    row: dict[str, Any], more: dict[str, Any], message: str, rerank: Keys, tmp_path: Path
) -> None:
    path = tmp_path / "bad.json"
    path.write_text(json.dumps([row]), encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        train(rerank(**{"dataset": str(path), **more}))
