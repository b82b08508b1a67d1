# SPDX-License-Identifier: Apache-2.0
"""``create_app(chat_model)``: the application for an ASGI server of the user's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from llamafactory.api.app import create_app
from llamafactory.chat import ChatModel
from llamafactory.extras.errors import ConfigError

QUESTION: Any = [{"role": "user", "content": "Who are you?"}]


@pytest.fixture(scope="module")
def model(make_tiny_model: Callable[..., Path]) -> Iterator[ChatModel]:
    folder = make_tiny_model()
    made = ChatModel(
        {
            "model_name_or_path": str(folder),
            "template": "qwen",
            "infer_dtype": "float32",
            "do_sample": False,
            "max_new_tokens": 8,
        }
    )
    yield made
    made.engine.close()


def client(model: ChatModel, host: str = "127.0.0.1") -> TestClient:
    return TestClient(create_app(model), base_url=f"http://{host}")


def test_it_answers_what_the_model_answers(model: ChatModel) -> None:
    with client(model) as http:
        assert [one["id"] for one in http.get("/v1/models").json()["data"]] == ["gpt-3.5-turbo"]
        body = {"model": "gpt-3.5-turbo", "messages": QUESTION}
        answer = http.post("/v1/chat/completions", json=body).json()
        assert answer["choices"][0]["message"]["content"] == model.chat(QUESTION)[0].text
        assert http.post("/v1/score/evaluation", json={"model": "gpt-3.5-turbo", "messages": ["a"]}).status_code == 405


def test_the_environment_says_the_rest(model: ChatModel, monkeypatch: pytest.MonkeyPatch) -> None:
    with client(model, "evil.example") as http:
        assert http.get("/v1/models").status_code == 403
    monkeypatch.setenv("API_KEY", "secret")
    monkeypatch.setenv("API_MODEL_NAME", "mine")
    with client(model) as http:
        assert http.get("/v1/models").status_code == 401
        found = http.get("/v1/models", headers={"Authorization": "Bearer secret"}).json()["data"]
        assert [one["id"] for one in found] == ["mine"]
    monkeypatch.delenv("API_KEY")
    monkeypatch.setenv("API_HOST", "0.0.0.0")
    with pytest.raises(ConfigError, match="API_HOST"):
        create_app(model)


def test_a_reward_model_scores(tiny_llama: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    AutoModelForSequenceClassification.from_pretrained(tiny_llama, num_labels=1).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_llama).save_pretrained(tmp_path)
    made = ChatModel({"model_name_or_path": str(tmp_path), "template": "qwen", "stage": "rm"})
    try:
        with client(made) as http:
            body = {"model": "gpt-3.5-turbo", "messages": ["good", "no"]}
            scores = http.post("/v1/score/evaluation", json=body).json()["scores"]
            assert http.post("/v1/embeddings", json={"model": "gpt-3.5-turbo", "input": "a"}).status_code == 405
        assert scores == pytest.approx(made.get_scores(["good", "no"]))
    finally:
        made.engine.close()
