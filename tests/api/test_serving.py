# SPDX-License-Identifier: Apache-2.0
"""Slots, queue, clients that go away, errors in a stream, shutdown; on an engine that waits when told to."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2 as httpx
import openai
import pytest
from scripted_engine import ScriptedEngine, until

from llamafactory.extras.errors import ConfigError

from .conftest import MODEL, running

BODY: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "q"}]}
CHAT = "/v1/chat/completions"


@pytest.fixture
def engine(make_template: Callable[[str], Any]) -> ScriptedEngine:
    return ScriptedEngine(make_template("chatml"))


@pytest.fixture
def waiting_engine(make_template: Callable[[str], Any]) -> ScriptedEngine:
    return ScriptedEngine(make_template("chatml"), gate=threading.Semaphore(0))


def test_overload_is_429_with_retry_after(waiting_engine: ScriptedEngine) -> None:
    assert waiting_engine.gate is not None
    with running(waiting_engine, max_concurrent=2, max_queue=1) as server, ThreadPoolExecutor(3) as pool:
        jobs = [pool.submit(httpx.post, server.url + CHAT, json=BODY, timeout=30) for _ in range(3)]
        admission = server.server.admission
        until(lambda: (admission.running, admission.waiting) == (2, 1))
        refused = httpx.post(server.url + CHAT, json=BODY)
        assert refused.status_code == 429 and 1 <= int(refused.headers["retry-after"]) <= 60
        assert refused.json()["error"]["code"] == "overloaded"
        assert waiting_engine.open == 2  # the one that waits has not begun
        waiting_engine.gate.release(100)
        assert [job.result().status_code for job in jobs] == [200, 200, 200]
        assert (admission.running, admission.waiting) == (0, 0)


def test_the_openai_client_comes_back_after_429(waiting_engine: ScriptedEngine) -> None:
    assert waiting_engine.gate is not None
    with running(waiting_engine, max_concurrent=1, max_queue=0) as server, ThreadPoolExecutor(1) as pool:
        first = pool.submit(httpx.post, server.url + CHAT, json=BODY, timeout=30)
        until(lambda: server.server.admission.running == 1)
        threading.Timer(0.3, waiting_engine.gate.release, [100]).start()
        answer = server.client(max_retries=3).chat.completions.create(**BODY)
        assert answer.choices[0].message.content == "ab" and first.result().status_code == 200


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("begun", [False, True])
def test_a_client_that_goes_away_frees_its_slot(waiting_engine: ScriptedEngine, stream: bool, begun: bool) -> None:
    """Before the first piece and after it, whole and streamed."""
    assert waiting_engine.gate is not None
    with running(waiting_engine, max_concurrent=1) as server:
        if begun:
            waiting_engine.gate.release()
        with httpx.Client() as client, pytest.raises(httpx.ReadTimeout):
            client.post(server.url + CHAT, json={**BODY, "stream": stream}, timeout=0.3)
        until(lambda: waiting_engine.open == 0 and server.server.admission.running == 0)
        assert len(waiting_engine.asked) == 1
        assert "llamafactory_abandoned_total 1" in httpx.get(server.url + "/metrics").text


def test_who_gives_up_in_the_queue_is_forgotten(waiting_engine: ScriptedEngine) -> None:
    assert waiting_engine.gate is not None
    with running(waiting_engine, max_concurrent=1) as server, ThreadPoolExecutor(1) as pool:
        first = pool.submit(httpx.post, server.url + CHAT, json=BODY, timeout=30)
        until(lambda: server.server.admission.running == 1)
        with httpx.Client() as client, pytest.raises(httpx.ReadTimeout):
            client.post(server.url + CHAT, json=BODY, timeout=0.3)
        until(lambda: server.server.admission.waiting == 0)
        waiting_engine.gate.release(100)
        assert first.result().status_code == 200
        assert len(waiting_engine.asked) == 1 and server.server.admission.running == 0


def test_an_error_in_a_stream_is_an_event(engine: ScriptedEngine) -> None:
    engine.error = RuntimeError("secret of the inside")
    with running(engine) as server:
        text = httpx.post(server.url + CHAT, json={**BODY, "stream": True}).text
        events = [json.loads(line[6:]) for line in text.splitlines() if line]
        assert events[-1]["error"]["code"] == "internal_error" and "secret" not in text and "[DONE]" not in text
        with pytest.raises(openai.APIError):
            list(server.client().chat.completions.create(**BODY, stream=True))
        whole = httpx.post(server.url + CHAT, json=BODY)
        assert whole.status_code == 500 and "secret" not in whole.text
        assert server.server.admission.running == 0 and engine.open == 0


def test_an_error_before_the_first_piece_has_a_status(engine: ScriptedEngine) -> None:
    engine.error, engine.pieces = ConfigError("prompt: too long for /home/me/models/tiny"), ["a"]
    with running(engine) as server:
        for stream in (False, True):
            answer = httpx.post(server.url + CHAT, json={**BODY, "stream": stream})
            assert answer.status_code == 400
            assert answer.json()["error"] == {
                "message": "prompt: too long for tiny",
                "type": "invalid_request_error",
                "param": "prompt",
                "code": None,
            }


def test_what_the_engine_is_asked(engine: ScriptedEngine) -> None:
    engine.adapters = ("poet",)
    keys: dict[str, Any] = {
        "model": "poet", "temperature": 0.5, "top_p": 0.9, "top_k": 7, "n": 2, "stop": "x", "seed": 3,
        "max_tokens": 9, "presence_penalty": 1.2, "logprobs": True, "top_logprobs": 4,
        "chat_template_kwargs": {"enable_thinking": False},
    }  # fmt: skip
    with running(engine) as server:
        assert [model["id"] for model in httpx.get(server.url + "/v1/models").json()["data"]] == [MODEL, "poet"]
        answer = httpx.post(server.url + CHAT, json={**BODY, **keys}).json()
        assert answer["model"] == "poet" and len(answer["choices"]) == 2
        httpx.post(server.url + CHAT, json=BODY)
    asked, plain = (overrides for _, _, overrides in engine.asked)
    assert asked == {
        "adapter": "poet", "do_sample": True, "temperature": 0.5, "top_p": 0.9, "top_k": 7, "num_return_sequences": 2,
        "stop": "x", "seed": 3, "max_new_tokens": 9, "repetition_penalty": 1.2, "log_probs": 4,
        "enable_thinking": False,
    }  # fmt: skip
    assert plain == {"num_return_sequences": 1}  # the rest is the configuration's
    with running(engine) as server:
        missing = httpx.post(server.url + CHAT, json={**BODY, "model": "test"})
        assert missing.status_code == 404
        assert missing.json()["error"]["message"] == f"model: 'test' does not exist; there is {MODEL}, poet"


def test_thought_and_parallel_calls(make_template: Callable[[str], Any]) -> None:
    calls = "".join(f'<tool_call>\n{{"name": "f", "arguments": {{"i": {i}}}}}\n</tool_call>\n' for i in (1, 2))
    text = f"<think>\nhm\n</think>\n\nLook: \n{calls.rstrip()}<|im_end|>"
    engine = ScriptedEngine(make_template("qwen3"), pieces=re.findall(r"(?s).{1,7}", text))
    tools: Any = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    with running(engine) as server:
        client = server.client()
        choice = client.chat.completions.create(**BODY, tools=tools).choices[0]
        message: Any = choice.message
        assert (message.reasoning_content, message.content, choice.finish_reason) == ("hm", "Look: ", "tool_calls")
        assert [(call.function.name, call.function.arguments) for call in message.tool_calls] == [
            ("f", '{"i": 1}'),
            ("f", '{"i": 2}'),
        ]
        assert len({call.id for call in message.tool_calls}) == 2
        reasoning, content, parts = "", "", []
        for chunk in client.chat.completions.create(**BODY, tools=tools, stream=True):
            delta: Any = chunk.choices[0].delta
            reasoning += getattr(delta, "reasoning_content", "")
            content += delta.content or ""
            parts += delta.tool_calls or []
        assert (reasoning, content, chunk.choices[0].finish_reason) == ("hm", "Look: ", "tool_calls")
        assert [(part.index, part.function.name, part.function.arguments) for part in parts] == [
            (0, "f", '{"i": 1}'),
            (1, "f", '{"i": 2}'),
        ]
        without = client.chat.completions.create(**BODY, tools=tools, tool_choice="none").choices[0]
        assert without.message.tool_calls is None and "<tool_call>" in (without.message.content or "")


def test_each_route_is_for_its_kind_of_model(engine: ScriptedEngine) -> None:
    texts = {"model": MODEL, "messages": ["good", "no"]}
    with running(engine, scores=True) as server:
        scored = httpx.post(server.url + "/v1/score/evaluation", json={**texts, "max_length": 5}).json()
        assert scored["object"] == "score.evaluation" and scored["scores"] == [4.0, 2.0]
        assert engine.asked[-1][2] == {"max_length": 5}
        assert httpx.post(server.url + CHAT, json=BODY).status_code == 405
        assert httpx.post(server.url + "/v1/completions", json={"model": MODEL, "prompt": "a"}).status_code == 405
    with running(engine) as server:
        assert httpx.post(server.url + "/v1/score/evaluation", json=texts).status_code == 405


def test_metrics_are_prometheus_text(engine: ScriptedEngine) -> None:
    with running(engine) as server:
        httpx.post(server.url + CHAT, json=BODY)
        httpx.get(server.url + "/nowhere/at-all")
        answer = httpx.get(server.url + "/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    values = dict(line.rsplit(" ", 1) for line in answer.text.splitlines() if not line.startswith("#"))
    assert values['llamafactory_requests_total{route="/v1/chat/completions",status="200"}'] == "1"
    assert values['llamafactory_requests_total{route="other",status="404"}'] == "1"
    assert (values["llamafactory_prompt_tokens_total"], values["llamafactory_generated_tokens_total"]) == ("7", "2")
    assert values["llamafactory_time_to_first_token_seconds_count"] == "1"
    assert values['llamafactory_request_seconds_bucket{le="+Inf"}'] == values["llamafactory_request_seconds_count"]


def start(folder: Path, **environment: str) -> tuple[subprocess.Popen[str], str]:
    """The command as users start it; returns the process and its URL."""
    command = [sys.executable, "-m", "llamafactory.cli", "api", f"model_name_or_path={folder}", "template=chatml"]
    words = ["infer_dtype=float32", "do_sample=false", "max_new_tokens=100000"]
    process = subprocess.Popen(
        [*command, *words], env={**os.environ, "API_PORT": "0", **environment}, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    for line in process.stderr:
        if found := re.search(r"http://[\d.:]+/v1", line):
            url = found[0].removesuffix("/v1")
            break
    until(lambda: _answers(url), 60)
    return process, url


def _answers(url: str) -> bool:
    try:
        return httpx.get(url + "/health").status_code == 200
    except httpx.TransportError:
        return False


def test_sigterm_lets_running_requests_finish(tiny_llama: Path) -> None:
    process, url = start(tiny_llama)
    try:
        with httpx.Client(timeout=60) as client:
            body = {**BODY, "stream": True, "max_tokens": 300}
            with client.stream("POST", url + CHAT, json=body) as answer:
                lines = answer.iter_lines()
                next(lines)
                process.send_signal(signal.SIGTERM)
                with pytest.raises(httpx.TransportError):  # nobody new is let in
                    for _ in range(50):
                        httpx.post(url + CHAT, json=BODY, timeout=10)
                        time.sleep(0.1)
                events = [line for line in lines if line]
        assert events[-1] == "data: [DONE]" and '"finish_reason":"length"' in events[-2]
        assert process.wait(timeout=20) == 0
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_the_time_for_finishing_is_limited(make_tiny_model: Any) -> None:
    folder = make_tiny_model(max_position_embeddings=200_000)
    process, url = start(folder, API_DRAIN_SECONDS="1")
    try:
        with httpx.stream("POST", url + CHAT, json={**BODY, "stream": True}, timeout=60) as answer:
            next(answer.iter_lines())
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=30) == 0
    finally:
        process.kill()
        process.communicate()
