# SPDX-License-Identifier: Apache-2.0
"""A server in a thread: on a random model, or on an engine that says what the test wrote."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest
from scripted_engine import until

from llamafactory.api.app import make_process
from llamafactory.api.server import Server
from llamafactory.api.settings import ServerSettings
from llamafactory.chat.hf_engine import HuggingfaceEngine
from llamafactory.extras.serving import bind
from llamafactory.hparams import get_infer_args

MODEL = "gpt-3.5-turbo"


@dataclass
class Running:
    """A server that runs."""

    server: Server
    port: int
    stop: Callable[[], None]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self, **options: Any) -> openai.OpenAI:
        options = {"api_key": "none", "max_retries": 0, "timeout": 60, **options}
        return openai.OpenAI(base_url=f"{self.url}/v1", **options)


@contextmanager
def running(engine: Any, scores: bool = False, prompts: Any = None, **settings: Any) -> Iterator[Running]:
    """Serve an engine at a free port of this machine."""
    server = Server(engine, ServerSettings(port=0, **settings), scores, prompts)
    listener = bind(server.settings.host, 0, "API_HOST")
    process = make_process(server)
    thread = threading.Thread(target=process.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()

    def stop() -> None:
        process.should_exit = True
        thread.join(timeout=30)

    until(lambda: process.started)
    try:
        yield Running(server, listener.getsockname()[1], stop)
    finally:
        stop()


@pytest.fixture(scope="session")
def tiny_engine(make_tiny_model: Callable[..., Path]) -> Iterator[HuggingfaceEngine]:
    """The real engine on a random model, greedy, 24 tokens."""
    folder = make_tiny_model(max_position_embeddings=2048)
    keys = {"template": "qwen", "infer_dtype": "float32", "do_sample": False, "max_new_tokens": 24}
    engine = HuggingfaceEngine(get_infer_args({"model_name_or_path": str(folder), **keys}))
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def served(tiny_engine: HuggingfaceEngine) -> Iterator[Running]:
    with running(tiny_engine) as server:
        yield server


@pytest.fixture
def client(served: Running) -> openai.OpenAI:
    return served.client()
