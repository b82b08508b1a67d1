# SPDX-License-Identifier: Apache-2.0
"""Stage classification: what transformers' own heads learn from one batch, however a step is cut."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, pipeline

from llamafactory.extras.errors import ConfigError

from .conftest import Keys
from .running import log_of, train, train_elsewhere

_WORDS = "who are you what is the name of a river story star number fox rain world please write think answer".split()  # noqa: SIM905
_CLASSES = ("blue", "green", "red")
_KINDS = ("single_label_classification", "multi_label_classification", "regression")


def _rows(kind: str, count: int = 40) -> list[dict[str, Any]]:
    draw, rows = random.Random(0), []
    for _ in range(count):
        words = draw.choices(_WORDS, k=draw.randint(1, 14))
        label: Any = _CLASSES[len(words) % 3]
        if kind == "multi_label_classification":
            label = [name for name, word in zip(_CLASSES, ("river", "star", "fox"), strict=True) if word in words]
        rows.append({"text": " ".join(words), "label": len(words) / 7 if kind == "regression" else label})
    return rows


@pytest.fixture
def start(tiny_llama: Path, tmp_path: Path) -> dict[str, Path]:
    """Classifiers with a known score, by the kind of problem."""
    folders = {}
    for kind in _KINDS:
        torch.manual_seed(1)
        names = {} if kind == "regression" else {"id2label": dict(enumerate(_CLASSES))}
        config = AutoConfig.from_pretrained(tiny_llama, num_labels=1 if kind == "regression" else 3, **names)
        config.problem_type = kind
        model = AutoModelForSequenceClassification.from_pretrained(tiny_llama, config=config, dtype=torch.float32)
        folders[kind] = tmp_path / kind
        model.save_pretrained(folders[kind])
        AutoTokenizer.from_pretrained(tiny_llama).save_pretrained(folders[kind])
    return folders


@pytest.fixture
def classify(keys: Keys, tmp_path: Path) -> Keys:
    """Keys of a quick run on texts with labels."""

    def build(kind: str = _KINDS[0], **more: Any) -> dict[str, Any]:
        path = tmp_path / f"{kind}.json"
        path.write_text(json.dumps(_rows(kind)), encoding="utf-8")
        given = {"stage": "classification", "problem_type": kind, "dataset": str(path), "disable_shuffling": True}
        return keys(**{**given, "per_device_train_batch_size": 8, **more})

    return build


def _reference(folder: Path, kind: str, steps: int, size: int = 8) -> dict[str, torch.Tensor]:
    """Weights after steps of plain gradient descent on transformers' own loss, a padded batch a step."""
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).train()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows, optimizer = _rows(kind), torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(steps):
        some = rows[step * size : (step + 1) * size]
        batch = tokenizer([row["text"] for row in some], padding=True, return_tensors="pt", padding_side="right")
        labels = torch.tensor([_label(row["label"], kind) for row in some])
        model(**batch, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.state_dict()


def _label(label: Any, kind: str) -> Any:
    if kind == "multi_label_classification":
        return [float(name in label) for name in _CLASSES]
    return label if kind == "regression" else _CLASSES.index(label)


_SGD = {"optim": "sgd", "learning_rate": 0.1, "max_grad_norm": 0.0, "lr_scheduler_type": "constant"}


@pytest.mark.parametrize("kind", _KINDS)
def test_steps_are_those_of_transformers_on_one_batch_however_they_are_cut(
    kind: str, classify: Keys, start: dict[str, Path], tmp_path: Path
) -> None:
    given = {"model_name_or_path": str(start[kind]), "finetuning_type": "full", "max_steps": 3, **_SGD}
    expected = _reference(start[kind], kind, 3)
    cuts: list[dict[str, Any]] = [{}, {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}]
    cuts.append({"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "padding_free": False})
    for number, cut in enumerate(cuts):
        run = train(classify(kind, **given, **cut, output_dir=str(tmp_path / f"run-{number}")))
        trained = AutoModelForSequenceClassification.from_pretrained(run, dtype=torch.float32)
        for name, weight in trained.state_dict().items():
            torch.testing.assert_close(weight, expected[name], rtol=0, atol=1e-6, msg=f"{cut} {name}")


def test_two_ranks_are_one(classify: Keys, start: dict[str, Path], tmp_path: Path) -> None:
    kind = _KINDS[0]
    given = classify(
        kind, model_name_or_path=str(start[kind]), finetuning_type="full", max_steps=3, val_size=0.2,
        eval_strategy="steps", eval_steps=3, per_device_train_batch_size=4, **_SGD,
    )  # fmt: skip
    alone = train(given | {"gradient_accumulation_steps": 2, "output_dir": str(tmp_path / "one")})
    done = train_elsewhere(given | {"output_dir": str(tmp_path / "two")}, ranks=2)
    assert done.returncode == 0, done.stderr[-2000:]
    assert all(
        any(key in row for row in log_of(alone)) for key in ("loss", "grad_norm", "accuracy", "eval_loss", "eval_f1")
    )
    for one, two in zip(log_of(alone), log_of(tmp_path / "two"), strict=True):
        for key in ("loss", "grad_norm", "accuracy", "eval_loss", "eval_f1"):
            assert (one.get(key) or 0.0) == pytest.approx(two.get(key) or 0.0, rel=1e-5), key


def test_an_adapter_says_what_its_scores_mean_and_its_figures_are_those_of_sklearn(
    classify: Keys, tiny_llama: Path, tmp_path: Path
) -> None:
    from sklearn.metrics import accuracy_score, f1_score

    from llamafactory.train.tuner import export_model

    held = tmp_path / "held.json"
    held.write_text(json.dumps(_rows(_KINDS[0], 60)[40:]), encoding="utf-8")
    given = classify(
        lora_rank=4, max_steps=20, learning_rate=5e-3, eval_dataset=str(held), do_eval=True, do_train=True,
        packing=True, save_steps=10, save_strategy="steps",
    )  # fmt: skip
    run = train(given)
    config = AutoConfig.from_pretrained(run)
    assert config.id2label == dict(enumerate(_CLASSES))
    base = AutoModelForSequenceClassification.from_pretrained(tiny_llama, config=config, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, run).eval()
    tokenizer = AutoTokenizer.from_pretrained(run)
    rows = json.loads(held.read_text())
    with torch.no_grad():
        scores = [model(**tokenizer(row["text"], return_tensors="pt")).logits[0] for row in rows]
    found = [_CLASSES[int(one.argmax())] for one in scores]
    wanted = [row["label"] for row in rows]
    result = json.loads((run / "eval_results.json").read_text())
    assert result["eval_accuracy"] == pytest.approx(accuracy_score(wanted, found))
    assert result["eval_f1"] == pytest.approx(f1_score(wanted, found, average="macro", labels=_CLASSES))
    places = torch.tensor([_CLASSES.index(name) for name in wanted])
    loss = torch.nn.functional.cross_entropy(torch.stack(scores), places)
    assert result["eval_loss"] == pytest.approx(float(loss), rel=1e-5)
    export_model({**given, "adapter_name_or_path": str(run), "export_dir": str(tmp_path / "merged")})
    ask = pipeline("text-classification", str(tmp_path / "merged"), top_k=None)
    answer = {one["label"]: one["score"] for one in ask([rows[0]["text"]])[0]}
    assert [answer[name] for name in _CLASSES] == pytest.approx(scores[0].softmax(-1).tolist(), abs=1e-5)
    again = train({**given, "adapter_name_or_path": str(run), "output_dir": str(tmp_path / "on"), "max_steps": 1})
    assert log_of(again)[0]["loss"] < log_of(run)[0]["loss"]
    resumed = train({**given, "max_steps": 22, "resume_from_checkpoint": str(run / "checkpoint-20")})
    assert AutoConfig.from_pretrained(resumed).problem_type == _KINDS[0]


@pytest.mark.parametrize(
    ("row", "more", "message"),
    [
        ({"text": "a", "label": ["x", "y"]}, {}, "names 2 classes; problem_type"),
        ({"text": "", "label": "x"}, {}, "a text is empty"),
        ({"text": "a", "label": None}, {}, "it has no label"),
        ({"text": "a", "label": "x"}, {"problem_type": "regression"}, "expected a number"),
        ({"text": "a", "label": "x"}, {"class_names": "y,z"}, "a class 'x', which is none of"),
        ({"text": "a", "label": "x"}, {}, "all rows are of one class, 'x'"),
        ({"text": "a", "other": "x"}, {}, "no column holds classes"),
    ],
)
def test_a_row_that_says_nothing_is_named(
    row: dict[str, Any], more: dict[str, Any], message: str, classify: Keys, tmp_path: Path
) -> None:
    path = tmp_path / "bad.json"
    path.write_text(json.dumps([{"text": "b", "label": 1 if "problem_type" in more else "x"}, row]), encoding="utf-8")
    if "other" in row:
        path.write_text(json.dumps([row]), encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        train(classify(**{"dataset": str(path), **more}))
