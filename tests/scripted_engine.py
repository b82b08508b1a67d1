# SPDX-License-Identifier: Apache-2.0
"""An engine that says what the test wrote, for what is built on engines."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from typing import Any

from llamafactory.chat.base_engine import Delta, EngineBase


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
