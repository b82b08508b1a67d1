# SPDX-License-Identifier: Apache-2.0
"""From the calls of a request to its answer, whole or streamed, whatever form that has."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Protocol

from fastapi.responses import JSONResponse, Response

from .disconnect import EventStream, unless_gone
from .errors import ApiError, to_api_error

if TYPE_CHECKING:
    from fastapi import Request

    from ..chat.base_engine import Delta
    from .calls import Call
    from .server import Server

    Deltas = AsyncGenerator[tuple[int, Delta], None]


class Answer(Protocol):
    """What a request is answered: grows by deltas.

    Attributes:
        closing: What ends a stream, as it is sent.
    """

    closing: str

    def begin(self) -> Iterable[dict[str, Any]]:
        """The events before the first delta."""
        ...

    def take(self, number: int, delta: Delta) -> Iterable[dict[str, Any]]:
        """Add a delta of a call; yield the events that it makes."""
        ...

    def end(self) -> Iterable[dict[str, Any]]:
        """The events after the last delta."""
        ...

    def fail(self, error: ApiError) -> dict[str, Any]:
        """The event that ends a stream after an error."""
        ...

    def body(self) -> dict[str, Any]:
        """The whole answer."""
        ...


async def respond(
    server: Server, request: Request, calls: Sequence[Call], adapter: str | None, answer: Answer, stream: bool
) -> Response:
    """Run the calls and send the answer.

    Raises:
        ClientGone: Nobody waits for it any more.
        ApiError: The server is full.
        ConfigError: The request cannot be answered.
    """
    deltas = server.deltas(calls, adapter, request.state.spent)
    if not stream:
        await unless_gone(request.receive, _read(deltas, answer), server.metrics)
        return JSONResponse(answer.body())
    # An error before the first piece still gets a status of its own.
    first = await unless_gone(request.receive, _first(deltas), server.metrics)
    return EventStream(_frames(first, deltas, answer), deltas, server.metrics)


async def _read(deltas: Deltas, answer: Answer) -> None:
    _drop(answer.begin())
    async with aclosing(deltas):
        async for number, delta in deltas:
            _drop(answer.take(number, delta))
    _drop(answer.end())


def _drop(events: Iterable[Any]) -> None:
    for _ in events:
        pass


async def _first(deltas: Deltas) -> tuple[int, Delta]:
    try:
        return await anext(deltas)
    except BaseException:
        await deltas.aclose()
        raise


async def _frames(first: tuple[int, Delta], rest: Deltas, answer: Answer) -> AsyncGenerator[str, None]:
    """The events of a stream, as they are sent."""
    item: tuple[int, Delta] | None = first
    try:
        for event in answer.begin():
            yield _frame(event)
        while item is not None:
            for event in answer.take(*item):
                yield _frame(event)
            item = await anext(rest, None)
        for event in answer.end():
            yield _frame(event)
    except Exception as error:  # the status is sent already: the error must go into the stream
        yield _frame(answer.fail(to_api_error(error)))
        return
    if answer.closing:
        yield answer.closing


def _frame(event: dict[str, Any]) -> str:
    """An event as it is sent; events with a type are named by it."""
    name = f"event: {event['type']}\n" if "type" in event else ""
    return f"{name}data: {json.dumps(event, ensure_ascii=False, separators=(',', ':'))}\n\n"
