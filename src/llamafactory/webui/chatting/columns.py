# SPDX-License-Identifier: Apache-2.0
"""Answers that grow side by side, each to a conversation of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

from ...data.messages import Message
from ...extras.errors import ConfigError
from .conversation import Look, StreamedResponse, shown

T = TypeVar("T")


@dataclass
class Column:
    """One answer as it grows.

    Attributes:
        before: The conversation until now.
        asked: What is answered.
        look: How it is shown.
        adapter: Who answers; ``None`` = the model as it was loaded.
        said: The conversation with what came of the answer.
        bubbles: The same for the page; the question is there before anything came.
        begun: Something came.
        error: Why nothing comes.
    """

    before: list[Message]
    asked: list[Message]
    look: Look
    adapter: str | None = None
    said: list[Message] = field(init=False)
    bubbles: list[dict[str, Any]] = field(init=False)
    begun: bool = False
    error: str = ""

    def __post_init__(self) -> None:
        self.said = self.before
        self.bubbles = self._head = shown(self.asked, self.look)

    def take(self, response: StreamedResponse, over: bool) -> None:
        """Show what came so far."""
        if response.begun:
            self.begun = True
            self.said = [*self.asked, response.message()]
            self.bubbles = [*self._head, *response.shown(over, self.look)]

    def fail(self, error: str) -> None:
        """There is no answer; the conversation is as it was."""
        self.error, self.said, self.begun = error, self.before, False
        self.bubbles = shown(self.before, self.look)


async def fill(
    column: Column, responses: AsyncGenerator[tuple[StreamedResponse, bool], None]
) -> AsyncGenerator[None, None]:
    """Take an answer into its column; yields whenever there may be something new."""
    try:
        async with aclosing(responses):
            async for response, over in responses:
                column.take(response, over)
                yield
    except ConfigError as error:
        column.fail(str(error))
        yield


async def merged(streams: Sequence[AsyncGenerator[T, None]]) -> AsyncGenerator[T, None]:
    """Yield what any of several streams yields, until all are over; closing it closes them."""
    end = object()

    def ask(stream: AsyncGenerator[T, None]) -> asyncio.Future[Any]:
        return asyncio.ensure_future(cast(Any, anext(stream, end)))

    waiting = {ask(stream): stream for stream in streams}
    try:
        while waiting:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                stream, item = waiting.pop(task), task.result()
                if item is not end:
                    waiting[ask(stream)] = stream
                    yield item
    finally:
        for task in waiting:
            task.cancel()
        if waiting:
            await asyncio.wait(waiting)
        for stream in streams:
            await stream.aclose()
