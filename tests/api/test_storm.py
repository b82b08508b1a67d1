# SPDX-License-Identifier: Apache-2.0
"""A thousand requests whose clients mostly go away: slots, the engine and memory are afterwards where they were."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Iterator

import httpx2 as httpx
import psutil
import pytest
from scripted_engine import until

from llamafactory.chat.hf_engine import HuggingfaceEngine

from .conftest import MODEL, Running, running

WORDS = ("rain", "stars", "a story about rivers", "0 1 2 3", "thanks")


@pytest.fixture(scope="module")
def stormy(tiny_engine: HuggingfaceEngine) -> Iterator[Running]:
    with running(tiny_engine, max_concurrent=8, max_queue=16) as server:
        yield server


async def storm(url: str, requests: int, seed: int) -> list[str]:
    """Send requests, 24 at a time, that give up after a random time or a random number of events."""
    generator = random.Random(seed)
    limit = asyncio.Semaphore(24)
    ends: list[str] = []

    async def one(client: httpx.AsyncClient, stream: bool, patience: float, events: int) -> None:
        body = {"model": MODEL, "stream": stream, "messages": [{"role": "user", "content": generator.choice(WORDS)}]}
        async with limit:
            try:
                async with asyncio.timeout(patience), client.stream("POST", url, json=body) as answer:
                    async for _ in answer.aiter_lines():
                        events -= 1
                        if not events:
                            break
                ends.append("left" if not events else str(answer.status_code))
            except TimeoutError:
                ends.append("gave up")

    async with httpx.AsyncClient(timeout=60, limits=httpx.Limits(max_connections=24)) as client:
        await asyncio.gather(
            *(
                one(
                    client,
                    generator.random() < 0.7,
                    generator.choice((0.01, 0.05, 0.2, 60)),
                    generator.choice((1, 5, -1)),
                )
                for _ in range(requests)
            )
        )
    return ends


def endure(server: Running, requests: int) -> None:
    ends = asyncio.run(storm(f"{server.url}/v1/chat/completions", requests, seed=requests))
    counts = {end: ends.count(end) for end in set(ends)}
    assert len(ends) == requests and counts.get("gave up", 0) > requests / 10 and counts.get("200", 0) > 0, counts
    admission = server.server.admission
    until(lambda: (admission.running, admission.waiting) == (0, 0), 60)
    until(lambda: server.server.engine.load == (0, 0), 60)  # type: ignore[attr-defined]


def test_a_small_storm(stormy: Running) -> None:
    endure(stormy, 60)
    answer = stormy.client().chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "rain"}])
    assert answer.usage is not None and answer.usage.completion_tokens > 0


@pytest.mark.slow
def test_a_thousand_requests_leave_nothing(stormy: Running) -> None:
    process = psutil.Process(os.getpid())
    endure(stormy, 200)  # what is allocated once
    before, files = process.memory_info().rss, process.num_fds()
    endure(stormy, 1000)
    until(lambda: process.num_fds() <= files + 4, 30)
    grown = (process.memory_info().rss - before) / 2**20
    print(f"memory grew by {grown:.1f} MiB")
    assert grown < 40
