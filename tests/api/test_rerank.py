# SPDX-License-Identifier: Apache-2.0
"""``/v1/rerank`` of a real reward model, beside transformers on the official template's text."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
import torch
from scripted_engine import ScriptedEngine

from llamafactory.chat.hf_engine import HuggingfaceEngine
from llamafactory.hparams import get_infer_args

from .conftest import MODEL, Running, running

ROUTE = "/v1/rerank"
DOCUMENTS = ["the sea", "a story about rivers, and of the towns at their mouths", "0 1 2 3", "thanks"]
BODY: dict[str, Any] = {"model": MODEL, "query": "Where do rivers end?", "documents": DOCUMENTS}


@pytest.fixture(scope="module")
def folder(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    made = tmp_path_factory.mktemp("reward")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = AutoModelForSequenceClassification.from_pretrained(tiny_llama, num_labels=1, pad_token_id=0)
        torch.nn.init.normal_(net.score.weight)
    net.save_pretrained(made)
    AutoTokenizer.from_pretrained(tiny_llama).save_pretrained(made)
    return made


@pytest.fixture(scope="module")
def judge(folder: Path) -> Iterator[Running]:
    keys = {"model_name_or_path": str(folder), "template": "chatml", "stage": "rm", "infer_dtype": "float32"}
    engine = HuggingfaceEngine(get_infer_args(keys))
    with running(engine, scores=True) as server:
        yield server
    engine.close()


@pytest.fixture(scope="module")
def expected(folder: Path) -> list[float]:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    net: Any = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    scores = []
    for document in DOCUMENTS:
        turns = [{"role": "user", "content": BODY["query"]}, {"role": "assistant", "content": document}]
        ids = tokenizer.apply_chat_template(turns, return_tensors="pt", return_dict=False)
        with torch.inference_mode():
            scores.append(float(torch.sigmoid(net(ids).logits.double())))
    return scores


def test_documents_are_ordered_as_the_reward_model_judges_them(judge: Running, expected: list[float]) -> None:
    answer = httpx.post(judge.url + ROUTE, json=BODY, timeout=60).json()
    order = sorted(range(4), key=lambda place: -expected[place])
    assert [one["index"] for one in answer["results"]] == order and len(set(expected)) == 4
    assert [one["relevance_score"] for one in answer["results"]] == pytest.approx(
        [expected[i] for i in order], abs=1e-5
    )
    assert answer["model"] == MODEL and answer["usage"]["total_tokens"] > 40
    assert all("document" not in one for one in answer["results"])
    changes = {"top_n": 2, "return_documents": True, "documents": [{"text": text} for text in DOCUMENTS], "model": "x"}
    best = httpx.post(judge.url + ROUTE, json={**BODY, **changes}, timeout=60).json()
    assert [one["document"]["text"] for one in best["results"]] == [DOCUMENTS[place] for place in order[:2]]
    assert best["model"] == MODEL


def test_long_documents_are_cut_before_they_are_tokenized(judge: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = type(judge.server.engine.template.tokenizer)
    given: list[int] = []
    inner = kind.__call__

    def tokenize(self: Any, text: Any, **keys: Any) -> Any:
        given.append(len(text))
        return inner(self, text, **keys)

    monkeypatch.setattr(kind, "__call__", tokenize)
    answer = httpx.post(judge.url + ROUTE, json={**BODY, "documents": ["a b " * 1_000_000]}, timeout=60)
    assert answer.status_code == 200 and answer.json()["usage"]["total_tokens"] == 512
    assert sum(given) < 200_000


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"documents": []}, "documents"),
        ({"query": ""}, "query"),
        ({"top_n": 0}, "top_n"),
        ({"documents": [{}]}, "documents.0"),
    ],
)
def test_bad_requests(judge: Running, change: Any, param: str) -> None:
    answer = httpx.post(judge.url + ROUTE, json={**BODY, **change})
    assert answer.status_code == 400 and answer.json()["error"]["param"].startswith(param)


def test_another_method_is_told_which_one_there_is(judge: Running) -> None:
    answer = httpx.get(judge.url + ROUTE)
    assert answer.status_code == 405 and answer.json()["error"]["message"] == "Method Not Allowed; this path takes POST"


def test_a_chat_model_ranks_nothing(make_template: Callable[[str], Any]) -> None:
    with running(ScriptedEngine(make_template("chatml"))) as server:
        answer = httpx.post(server.url + ROUTE, json=BODY)
        assert answer.status_code == 405 and "a chat model" in answer.json()["error"]["message"]
    with running(ScriptedEngine(make_template("chatml")), scores=True) as server:
        answer = httpx.post(server.url + "/v1/responses", json={"model": MODEL, "input": "q"})
        assert answer.status_code == 405 and "/v1/rerank" in answer.json()["error"]["message"]
