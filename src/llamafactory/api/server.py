# SPDX-License-Identifier: Apache-2.0
"""What all routes share: the engine, its slots, the names it answers to."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeVar

from .admission import Admission
from .disconnect import unless_gone
from .errors import ApiError
from .media import MediaLoader
from .metrics import Metrics
from .settings import ServerSettings

if TYPE_CHECKING:
    from fastapi import Request

    from ..chat.base_engine import Delta, Engine
    from .access_log import Spent
    from .calls import Call

T = TypeVar("T")


_KINDS = {
    "text": "a chat model: ask /v1/chat/completions (scores need a reward model, stage: rm)",
    "scores": "a reward model: ask /v1/score/evaluation or /v1/rerank",
    "ranks": "a reranker: ask /v1/rerank",
    "vectors": "an embedding model: ask /v1/embeddings",
}


@dataclass
class Server:
    """One served model.

    Attributes:
        engine: Answers.
        settings: From the environment.
        scores: The model is a reward model: it scores, and does not talk.
        prompts: The model makes vectors, and does not talk: what stands before a ``query`` and a ``document``.
        pairs: Scores are of a query with a document, as a reranker reads them.
        created: When it was loaded, in seconds since 1970.
    """

    engine: Engine
    settings: ServerSettings
    scores: bool = False
    prompts: Mapping[str, str] | None = None
    pairs: bool = False
    created: int = field(default_factory=lambda: int(time.time()))

    def __post_init__(self) -> None:
        self.admission = Admission(self.settings.max_concurrent, self.settings.max_queue)
        self.metrics = Metrics()
        self.media = MediaLoader(self.settings.media)

    @property
    def names(self) -> list[str]:
        """What ``model`` may be: the served name, then the adapters."""
        return [self.settings.model_name, *self.engine.adapters]

    def choose(self, model: str | None) -> tuple[str, str | None]:
        """The name of the model that answers a request, and the adapter that it is; ``None`` = as configured.

        Args:
            model: What the request names. Where there is one model only, it answers to every name.

        Raises:
            ApiError: No such model (404).
        """
        served = self.settings.model_name
        if model is None or not self.engine.adapters:
            return served, None
        self.expect_name(model)
        return model, None if model == served else model

    def expect_name(self, model: str) -> None:
        """Refuse a name that is none of a model (404)."""
        if model not in self.names:
            names = ", ".join(self.names)
            raise ApiError(404, f"model: {model!r} does not exist; there is {names}", "model", "model_not_found")

    def expect(self, kind: Literal["text", "scores", "vectors", "ranks"]) -> None:
        """Refuse a route that is not for the loaded model (405); models that write have vectors too."""
        own = "text" if self.prompts is None else "vectors"
        own = own if not self.scores else "ranks" if self.pairs else "scores"
        if kind != own and (kind, own) not in (("vectors", "text"), ("ranks", "scores")):
            raise ApiError(405, f"the loaded model is {_KINDS[own]}", code="wrong_model_kind")

    async def deltas(
        self, calls: Sequence[Call], adapter: str | None, spent: Spent
    ) -> AsyncGenerator[tuple[int, Delta], None]:
        """Run the calls of one request in one slot; yield (number of the call, delta) as they come."""
        arrival = time.monotonic()
        first = True
        async with self.admission.slot(), aclosing(self._pieces(calls, adapter, spent)) as pieces:
            async for number, delta in pieces:
                if first:
                    first = False
                    self.metrics.first_token.observe(time.monotonic() - arrival)
                self.metrics.generated_tokens += delta.tokens
                spent.completion += delta.tokens
                yield number, delta

    async def work(
        self, request: Request, job: Callable[[], Awaitable[T]], texts: Sequence[str], limit: int | None = None
    ) -> tuple[T, int]:
        """Do something with texts in a slot, unless the client goes away; return the result and how much was read.

        Args:
            request: Who asks.
            job: What is to be done.
            texts: What it reads.
            limit: Most tokens that it reads of a text, if fewer than the model takes.

        Raises:
            ClientGone: Nobody waits for it any more.
            ApiError: The server is full.
            ConfigError: The texts cannot be used.
        """

        async def in_slot() -> tuple[T, int]:
            async with self.admission.slot():
                result = await job()
                return result, sum(await self.engine.count_tokens(texts, limit))

        result, tokens = await unless_gone(request.receive, in_slot(), self.metrics)
        self.metrics.prompt_tokens += tokens
        request.state.spent.prompt += tokens
        return result, tokens

    def _pieces(
        self, calls: Sequence[Call], adapter: str | None, spent: Spent
    ) -> AsyncGenerator[tuple[int, Delta], None]:
        return _merge([self._stream(number, call, adapter, spent) for number, call in enumerate(calls)])

    async def _stream(
        self, number: int, call: Call, adapter: str | None, spent: Spent
    ) -> AsyncGenerator[tuple[int, Delta], None]:
        overrides = {name: value for name, value in call.overrides.items() if value is not None}
        if adapter is not None:
            overrides["adapter"] = adapter
        async with aclosing(self.engine.stream(call.prompt, call.tools, **overrides)) as pieces:
            counted = False
            async for delta in pieces:
                if not counted:
                    counted = True
                    self.metrics.prompt_tokens += delta.prompt_tokens
                    spent.prompt += delta.prompt_tokens
                yield number, delta


async def _merge(
    streams: list[AsyncGenerator[tuple[int, Delta], None]],
) -> AsyncGenerator[tuple[int, Delta], None]:
    """Yield what the streams give, as it comes; an error of one ends all."""
    if len(streams) == 1:
        async with aclosing(streams[0]) as only:
            async for item in only:
                yield item
        return
    # Room for one item each: a slow reader slows the streams.
    items: asyncio.Queue[tuple[int, Delta] | Exception | None] = asyncio.Queue(len(streams))

    async def pump(stream: AsyncGenerator[tuple[int, Delta], None]) -> None:
        try:
            async with aclosing(stream):
                async for item in stream:
                    await items.put(item)
            await items.put(None)
        except Exception as error:  # raised again by the reader, below
            await items.put(error)

    tasks = [asyncio.ensure_future(pump(stream)) for stream in streams]
    try:
        ended = 0
        while ended < len(tasks):
            got = await items.get()
            if isinstance(got, Exception):
                raise got
            if got is None:
                ended += 1
            else:
                yield got
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
