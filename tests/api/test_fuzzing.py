# SPDX-License-Identifier: Apache-2.0
"""Requests made from our own OpenAPI description, right and wrong ones: no 500, and nothing of the inside gets out."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from scripted_engine import ScriptedEngine

from llamafactory.chat.hf_engine import HuggingfaceEngine
from llamafactory.hparams import get_infer_args

from .conftest import MODEL, Running, running

KEY = "the-secret-key-4711"
# Where a path of this machine, a Python traceback or the key would show.
LEAK = re.compile(rf"{KEY}|Traceback|site-packages|llamafactory/|\.py\b|/tmp/|/home/|/root/|/work/")


@pytest.fixture(scope="module")
def fuzzed(make_tiny_model: Callable[..., Path]) -> Iterator[Running]:
    """The real engine; a context of 96 tokens keeps the answers short."""
    folder = make_tiny_model(max_position_embeddings=96)
    keys = {"model_name_or_path": str(folder), "template": "qwen", "infer_dtype": "float32", "max_new_tokens": 4}
    engine = HuggingfaceEngine(get_infer_args(keys))
    with running(engine, key=KEY) as server:
        yield server
    engine.close()


def fuzz(server: Running, requests: int) -> Counter[int]:
    """Send so many requests; return how often each status came."""
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    operations = [found.ok() for found in schema.get_all_operations()]
    posts = [operation for operation in operations if operation.method.upper() == "POST"]
    statuses: Counter[int] = Counter()
    headers = {"Authorization": f"Bearer {KEY}"}

    def send(case: Any, *, right_model: bool) -> None:
        if right_model and isinstance(case.body, dict):
            case.body["model"] = MODEL
        response = case.call(headers=headers, timeout=60)
        statuses[response.status_code] += 1
        assert response.status_code < 500, (response.status_code, case.body)
        if "/openapi.json" not in case.path:
            assert not LEAK.search(response.text.replace(str(case.body), "")), response.text
        if response.status_code >= 400 and response.request.method != "HEAD":
            assert set(response.json()["error"]) == {"message", "type", "param", "code"}

    def sender(right_model: bool) -> Callable[[Any], None]:
        def one(case: Any) -> None:
            send(case, right_model=right_model)

        return one

    runs = [(one, mode, False) for one in operations for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)]
    runs += [(one, mode, True) for one in posts for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)] * 3
    for operation, mode, right_model in runs:
        if mode is GenerationMode.NEGATIVE and operation.method.upper() == "GET":
            continue
        bounds = settings(
            max_examples=-(-requests // len(runs)),
            deadline=None,
            database=None,
            derandomize=True,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        bounds(given(case=operation.as_strategy(generation_mode=mode))(sender(right_model)))()
    return statuses


@pytest.fixture
def judge(make_template: Callable[[str], Any]) -> Iterator[Running]:
    """A reward model's server, whose scores are lengths."""
    with running(ScriptedEngine(make_template("qwen")), scores=True, key=KEY) as server:
        yield server


def check(server: Running, requests: int) -> None:
    statuses = fuzz(server, requests)
    print(f"{sum(statuses.values())} requests: {dict(statuses)}")
    assert sum(statuses.values()) >= requests * 0.8
    assert statuses[200] > requests / 50 and statuses[400] > requests / 10  # both kinds were sent
    assert httpx.get(f"{server.url}/health").status_code == 200
    assert (server.server.admission.running, server.server.admission.waiting) == (0, 0)


def test_some_requests(fuzzed: Running) -> None:
    check(fuzzed, 150)


def test_some_requests_to_a_reward_model(judge: Running) -> None:
    statuses = fuzz(judge, 60)
    assert statuses[200] > 5 and statuses[400] > 5 and statuses[405] > 5


@pytest.mark.slow
def test_two_thousand_requests(fuzzed: Running) -> None:
    check(fuzzed, 2500)
