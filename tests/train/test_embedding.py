# SPDX-License-Identifier: Apache-2.0
"""Stage embedding: the loss of all texts of a step in float64, however the step is cut; figures by hand."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer

from llamafactory.extras.errors import ConfigError
from llamafactory.train.metrics.ranking import correlations, mean_ranking, ranking

from .conftest import Keys
from .running import log_of, train, train_elsewhere

_WORDS = "who are you what is the name of a river story star number fox rain world please write think answer".split()  # noqa: SIM905
_SGD = {"optim": "sgd", "learning_rate": 0.05, "max_grad_norm": 0.0, "lr_scheduler_type": "constant"}


def _text(draw: random.Random) -> str:
    return " ".join(draw.choices(_WORDS, k=draw.randint(1, 9)))


def _rows(scores: bool = False, count: int = 16) -> list[dict[str, Any]]:
    draw = random.Random(0)
    rows = []
    for number in range(count):
        row: dict[str, Any] = {"query": _text(draw), "positive": _text(draw)}
        if scores:
            row["score"] = draw.randint(0, 5) / 5
        else:
            row["negative"] = [_text(draw) for _ in range(number % 3)]
        rows.append(row)
    if not scores:  # a positive that two rows share, and a query with two
        rows[1]["positive"] = rows[0]["positive"]
        rows[2]["positive"] = [rows[2]["positive"], _text(draw)]
    return rows


@pytest.fixture
def embed(keys: Keys, tmp_path: Path) -> Keys:
    """Keys of a quick run on queries and documents."""

    def build(scores: bool = False, **more: Any) -> dict[str, Any]:
        path = tmp_path / f"texts-{scores}.json"
        path.write_text(json.dumps(_rows(scores)), encoding="utf-8")
        given = {"stage": "embedding", "dataset": str(path), "disable_shuffling": True, "finetuning_type": "full"}
        return keys(**{**given, "per_device_train_batch_size": 8, "max_steps": 2, **_SGD, **more})

    return build


def _vector(model: Any, tokenizer: Any, text: str, pooling: str) -> torch.Tensor:
    states = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].double()
    return states.mean(0) if pooling == "mean" else states[-1]


def _loss(rows: list[dict[str, Any]], vector: Any, widths: list[int], temperature: float, scores: bool) -> Any:
    """The loss of a step, as its equation stands, one pair after the other."""

    def cosine(one: str, other: str, width: int) -> Any:
        return torch.cosine_similarity(vector(one)[:width], vector(other)[:width], dim=0) / temperature

    total: Any = 0.0
    for width in widths:
        if scores:
            found = [(cosine(row["query"], row["positive"], width), row["score"]) for row in rows]
            terms = [(low - high).exp() for high, g in found for low, h in found if g > h]
            total = total + torch.log(1 + sum(terms))
            continue
        good = [row["positive"] if isinstance(row["positive"], list) else [row["positive"]] for row in rows]
        documents = [text for some, row in zip(good, rows, strict=True) for text in (*some, *row["negative"])]
        losses = []
        for some, row in zip(good, rows, strict=True):
            others = sum(cosine(row["query"], text, width).exp() for text in documents if text not in some)
            for text in some:
                own = cosine(row["query"], text, width).exp()
                losses.append(-torch.log(own / (own + others)))
        total = total + torch.stack(losses).mean()
    return total


def _reference(folder: Path, rows: list[dict[str, Any]], pooling: str, **settings: Any) -> dict[str, torch.Tensor]:
    """Weights after two steps of plain gradient descent, all texts of a step at once."""
    model = AutoModel.from_pretrained(folder, dtype=torch.float64)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for start in (0, 8):
        _loss(rows[start : start + 8], lambda text: _vector(model, tokenizer, text, pooling), **settings).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.state_dict()


@pytest.mark.parametrize(
    ("scores", "more", "settings"),
    [
        (False, {"pooling": "mean", "embedding_dims": "64,16"}, {"widths": [64, 16], "temperature": 0.05}),
        (True, {"embedding_loss": "cosent", "embedding_temperature": 0.2}, {"widths": [64], "temperature": 0.2}),
    ],
    ids=("infonce", "cosent"),
)
def test_steps_are_those_of_the_equation_however_they_are_cut(
    scores: bool, more: dict[str, Any], settings: dict[str, Any], embed: Keys, tiny_llama: Path, tmp_path: Path
) -> None:
    pooling = more.get("pooling", "last")
    expected = _reference(tiny_llama, _rows(scores), pooling, scores=scores, **settings)
    cuts: list[dict[str, Any]] = [{}, {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}]
    cuts.append({"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "padding_free": False})
    losses = []
    for number, cut in enumerate(cuts):
        run = train(embed(scores, **more, **cut, output_dir=str(tmp_path / f"run-{number}")))
        losses.append(log_of(run)[0]["loss"])
        for name, weight in load_file(run / "model.safetensors").items():
            torch.testing.assert_close(weight.double(), expected[name], rtol=0, atol=1e-5, msg=f"{cut} {name}")
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-5)


@pytest.mark.slow
def test_two_ranks_are_one_with_dropout_that_falls_alike(embed: Keys, tmp_path: Path) -> None:
    given = embed(
        finetuning_type="lora", lora_rank=4, per_device_train_batch_size=4, val_size=5, eval_strategy="steps",
        eval_steps=2, per_device_eval_batch_size=2,
    )  # fmt: skip
    alone = train(given | {"gradient_accumulation_steps": 2, "output_dir": str(tmp_path / "one")})
    done = train_elsewhere(given | {"output_dir": str(tmp_path / "two")}, ranks=2)
    assert done.returncode == 0, done.stderr[-2000:]
    assert all(
        any(key in row for row in log_of(alone))
        for key in ("loss", "grad_norm", "accuracy", "eval_loss", "eval_ndcg_at_10", "eval_recall_at_10")
    )
    for one, two in zip(log_of(alone), log_of(tmp_path / "two"), strict=True):
        for key in ("loss", "grad_norm", "accuracy", "eval_loss", "eval_ndcg_at_10", "eval_recall_at_10"):
            assert (one.get(key) or 0.0) == pytest.approx(two.get(key) or 0.0, rel=1e-4), key
    # With dropout the cached gradients are those of the vectors that are differentiated: the loss can be overfitted.
    last = log_of(train(embed(
        finetuning_type="lora", lora_rank=8, lora_dropout=0.1, per_device_train_batch_size=4, optim="adamw_torch",
        gradient_accumulation_steps=2, max_steps=30, learning_rate=5e-3, output_dir=str(tmp_path / "three"),
    )))  # fmt: skip
    assert last[-2]["loss"] < 0.3 * last[0]["loss"]


def test_a_folder_is_served_exported_and_goes_on_as_it_was_trained(
    embed: Keys, tiny_llama: Path, tmp_path: Path
) -> None:
    from llamafactory.hparams import get_infer_args
    from llamafactory.model import load_model, load_tokenizer
    from llamafactory.model.heads import head_for
    from llamafactory.model.vectors import encode_texts, read_settings, vector_settings
    from llamafactory.train.tuner import export_model

    given = embed(
        finetuning_type="lora", lora_rank=4, optim="adamw_torch", learning_rate=5e-3, pooling="mean",
        query_prompt="question: ", save_strategy="steps", save_steps=1,
    )  # fmt: skip
    run = train(given)
    settings = read_settings(run)
    assert settings is not None and (settings.pooling, settings.query, settings.document) == ("mean", "question: ", "")
    served = {"model_name_or_path": str(tiny_llama), "adapter_name_or_path": str(run), "stage": "embedding"}
    args = get_infer_args({**served, "infer_dtype": "float32"})
    tokenizer = load_tokenizer(args.model)
    ours = load_model(tokenizer, args, trainable=False, head=head_for(args))
    text = vector_settings(args).prompt("query") + "who are you"
    vectors = encode_texts(ours, tokenizer, ["a river", text], "mean")
    merged = tmp_path / "merged"
    export_model({**given, "adapter_name_or_path": str(run), "export_dir": str(merged)})
    plain = AutoModel.from_pretrained(merged, dtype=torch.float32)
    with torch.no_grad():
        wanted = torch.nn.functional.normalize(_vector(plain, tokenizer, text, "mean"), dim=0).float()
    torch.testing.assert_close(vectors[1], wanted, rtol=0, atol=1e-5)
    assert read_settings(merged) == settings
    modules = json.loads((merged / "modules.json").read_text())
    assert [one["path"] for one in modules] == ["", "1_Pooling", "2_Normalize"]
    resumed = train({**given, "max_steps": 3, "resume_from_checkpoint": str(run / "checkpoint-2")})
    assert read_settings(resumed) == settings


def test_ties_count_against_the_model_and_all_queries_are_in_the_mean() -> None:
    alike, gains = torch.ones(4), torch.tensor([1.0, 0, 0, 0])
    assert ranking(alike, gains) == pytest.approx((1 / math.log2(5), 1 / 4, 1.0))
    assert ranking(torch.tensor([math.nan, 0, 0, 0]), gains) == pytest.approx((1 / math.log2(5), 1 / 4, 1.0))
    graded = ranking(torch.tensor([3.0, 2, 1]), torch.tensor([1.0, 0, 2]))
    assert graded == pytest.approx(((1 + 2 / 2) / (2 + 1 / math.log2(3)), 1.0, 1.0))
    nothing = (torch.tensor([1.0]), torch.tensor([0.0]))
    assert mean_ranking([(alike, gains), nothing])["mrr_at_10"] == pytest.approx(1 / 8)
    from scipy.stats import pearsonr, spearmanr

    one, other = torch.tensor([0.1, 0.5, 0.5, 0.9, 0.2]), torch.tensor([1.0, 2, 2, 2, 0])
    found = correlations(one, other)
    assert found == pytest.approx({"pearson": pearsonr(one, other)[0], "spearman": spearmanr(one, other)[0]})


@pytest.mark.parametrize(
    ("row", "more", "message"),
    [
        ({"query": "a", "positive": []}, {}, "it has no document"),
        ({"query": "", "positive": "b"}, {}, "it has no query"),
        ({"query": "a", "positive": "b", "score": 0.5}, {}, "has the score 0.5; cosent learns"),
        ({"query": "a", "positive": ["b"], "score": [1, 2]}, {}, "holds 2 numbers for 1 documents"),
        ({"text": "a", "label": "b"}, {}, "no column holds documents"),
        ({"query": "a", "positive": "b"}, {"embedding_dims": "64,x"}, "embedding_dims: expected whole numbers"),
        ({"query": "a", "positive": "b"}, {"embedding_dims": "128"}, "embedding_dims: 128 is more than the 64"),
    ],
)
def test_what_cannot_be_learned_is_said(
    row: dict[str, Any], more: dict[str, Any], message: str, embed: Keys, tmp_path: Path
) -> None:
    path = tmp_path / "bad.json"
    path.write_text(json.dumps([row]), encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        train(embed(**{"dataset": str(path), **more}))


def test_mined_negatives_are_near_and_not_right(tiny_llama: Path, tmp_path: Path, capsys: Any) -> None:
    from llamafactory.train.commands.mine import Limits, hard_negatives, run_mine

    angles = torch.tensor([0.0, 10, 20, 30, 60, 90]) * math.pi / 180
    documents = torch.stack([angles.cos(), angles.sin()], 1)
    query, right = torch.tensor([[1.0, 0.0]]), [[1]]  # its positive is at 10 degrees: cosine .985, 95 % of it .936
    assert hard_negatives(query, documents, right, Limits(2, 0, 0.95)) == [[3, 4]]
    assert hard_negatives(query, documents, right, Limits(2, 1, 0.95)) == [[4, 5]]
    assert hard_negatives(query, documents, right, Limits(9, 0, 0.5)) == [[5]]
    path, mined = tmp_path / "texts.json", tmp_path / "deep" / "mined.jsonl"
    path.write_text(json.dumps(_rows()), encoding="utf-8")
    keys = {"model_name_or_path": str(tiny_llama), "dataset": str(path), "mine_file": str(mined), "mine_share": 0.99}
    run_mine({**keys, "mine_negatives": 3})
    assert "negatives for 16 queries" in capsys.readouterr().out
    rows = [json.loads(line) for line in mined.read_text().splitlines()]
    assert [row["query"] for row in rows] == [row["query"] for row in _rows()]
    assert any(len(row["negative"]) >= 3 for row in rows)
    assert not any(set(row["positive"]) & set(row["negative"]) for row in rows)
    with pytest.raises(ConfigError, match=r"mine_file: .* is there already"):
        run_mine(keys)
    with pytest.raises(ConfigError, match="mine needs an embedding model"):
        run_mine({**keys, "stage": "reranker"})
