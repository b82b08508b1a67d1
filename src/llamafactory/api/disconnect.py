# SPDX-License-Identifier: Apache-2.0
"""Clients that go away: their work ends at once, and what it held is free."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from starlette.responses import Response

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from .metrics import Metrics

T = TypeVar("T")


class ClientGone(Exception):
    """The client closed its connection; there is nobody to answer."""


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, T], metrics: Metrics) -> T:
    """Await ``work``; cancel it when the client goes away.

    Raises:
        ClientGone: It did.
    """
    task = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            metrics.abandoned += 1
            raise ClientGone
        return task.result()
    finally:
        for one in (task, watch):
            await _end(one)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _end(task: asyncio.Future[Any]) -> None:
    """Cancel and wait until the task has put everything back."""
    task.cancel()
    with suppress(asyncio.CancelledError, Exception):  # what went wrong is told by `task.result()`
        await task


class EventStream(Response):
    """Server-sent events.

    Args:
        events: Texts, each one event as it is sent.
        source: What the events are made from; closed in every case, even when no event was asked for.
        metrics: Counts clients that went away.
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[str, None], source: AsyncGenerator[Any, None], metrics: Metrics) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._events, self._source, self._metrics = events, source, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            with suppress(ClientGone):
                await unless_gone(receive, self._send(send), self._metrics)
        finally:
            await self._events.aclose()
            await self._source.aclose()

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for event in self._events:
            await send({"type": "http.response.body", "body": event.encode(), "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
