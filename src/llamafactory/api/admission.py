# SPDX-License-Identifier: Apache-2.0
"""Who may run, who waits, and who is sent away."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from .errors import ApiError


class Admission:
    """A number of slots and a queue of limited length, first come, first served.

    Args:
        slots: Requests that may run at the same time.
        queue: Requests that may wait.
    """

    def __init__(self, slots: int, queue: int) -> None:
        self._slots, self._queue = slots, queue
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._seconds = 1.0  # how long a request holds its slot, a moving average
        self.running = 0
        self.draining = False

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._waiting)

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Hold a slot for the length of the block; waits for one.

        Raises:
            ApiError: The queue is full (429, with ``Retry-After``), or the server is shutting down (503).
        """
        if self.draining:
            raise ApiError(503, "the server is shutting down", code="shutting_down", headers={"Retry-After": "30"})
        if self.running < self._slots:
            self.running += 1
        else:
            await self._wait()
        start = time.monotonic()
        try:
            yield
        finally:
            self._seconds += 0.1 * (time.monotonic() - start - self._seconds)
            self._release()

    async def _wait(self) -> None:
        if len(self._waiting) >= self._queue:
            seconds = round(self._seconds * (len(self._waiting) + 1) / self._slots)
            headers = {"Retry-After": str(min(max(seconds, 1), 60))}
            raise ApiError(429, "too many requests at the moment; try again later", code="overloaded", headers=headers)
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._release()  # the slot came in the same moment
            else:
                with suppress(ValueError):  # a slot that came free has passed it over already
                    self._waiting.remove(turn)
            raise

    def _release(self) -> None:
        """Hand the slot to who waits longest; nobody can come in between."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self.running -= 1
