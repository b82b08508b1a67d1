# SPDX-License-Identifier: Apache-2.0
"""A server in a thread: on a random model, or on an engine that says what the test wrote."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import openai
import pytest

from llamafactory.api.app import make_process
from llamafactory.api.server import Server
from llamafactory.api.settings import ServerSettings
from llamafactory.chat.base_engine import Delta, EngineBase
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
def running(engine: Any, scores: bool = False, **settings: Any) -> Iterator[Running]:
    """Serve an engine at a free port of this machine."""
    server = Server(engine, ServerSettings(port=0, **settings), scores)
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


def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    """Wait for something that another thread does."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


@dataclass
class ScriptedEngine(EngineBase):
    """Says ``pieces``, one delta each, to every request.

    Attributes:
        template: A bound template.
        pieces: What each answer is made of.
        gate: When given, a piece is said only after a permit of this semaphore.
        asked: Prompt, tools and overrides of every request.
        open: Requests that were begun and not closed.
    """

    template: Any
    pieces: list[str] = field(default_factory=lambda: ["a", "b"])
    gate: threading.Semaphore | None = None
    error: Exception | None = None
    adapters: tuple[str, ...] = ()
    media: tuple[str, ...] = ()
    asked: list[tuple[Any, Any, dict]] = field(default_factory=list)
    open: int = 0

    async def stream(self, prompt: Any, tools: Any = (), **overrides: Any) -> AsyncGenerator[Delta, None]:
        self.asked.append((prompt, tools, overrides))
        self.open += 1
        try:
            for number, piece in enumerate(self.pieces):
                while self.gate is not None and not self.gate.acquire(blocking=False):
                    await asyncio.sleep(0.002)
                if self.error is not None and number == len(self.pieces) - 1:
                    raise self.error
                for index in range(overrides.get("num_return_sequences", 1)):
                    last = number == len(self.pieces) - 1
                    yield Delta(piece, index, 1, 7, "stop" if last else None)
                await asyncio.sleep(0)
        finally:
            self.open -= 1

    async def get_scores(self, texts: Any, **overrides: Any) -> list[float]:
        self.asked.append((texts, (), overrides))
        return [float(len(text)) for text in texts]

    async def embed(self, texts: Any) -> list[list[float]]:
        return [[1.0, 0.5, float(len(text))] for text in texts]

    def close(self) -> None: ...


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
