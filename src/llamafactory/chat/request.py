# SPDX-License-Identifier: Apache-2.0
"""A request inside the huggingface engine: its answers as they grow, and the way back to who asked."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .base_engine import Delta, FinishReason, TokenLogProb
from .sampler import Choice, Chooser
from .text_stream import TextStream

if TYPE_CHECKING:
    from .sampling import Sampling


class Mailbox:
    """Hands what the engine's thread makes to one coroutine. Made where the coroutine runs."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.queue: asyncio.Queue[list[Delta] | BaseException] = asyncio.Queue()


class Post:
    """Collects what is to be delivered and wakes each event loop once for all of it: waking costs a system call."""

    def __init__(self) -> None:
        self._bags: dict[Mailbox, list[Delta]] = defaultdict(list)

    def add(self, mailbox: Mailbox, delta: Delta) -> None:
        """Keep a delta until :meth:`send`."""
        self._bags[mailbox].append(delta)

    def fail(self, mailbox: Mailbox, error: BaseException) -> None:
        """Tell a request at once that it failed."""
        self.send()
        _deliver(mailbox.loop, [(mailbox, error)])

    def send(self) -> None:
        """Deliver what was collected."""
        by_loop = defaultdict(list)
        for mailbox, bag in self._bags.items():
            by_loop[mailbox.loop].append((mailbox, bag))
        self._bags.clear()
        for loop, mail in by_loop.items():
            _deliver(loop, mail)


def _deliver(loop: asyncio.AbstractEventLoop, mail: list) -> None:
    def put() -> None:
        for mailbox, item in mail:
            mailbox.queue.put_nowait(item)

    with suppress(RuntimeError):  # the loop is closed: nobody is left to read it
        loop.call_soon_threadsafe(put)


@dataclass(eq=False)
class Request:
    """A prompt and how to answer it. Made in the coroutine that waits for the answers.

    Attributes:
        prompt: Its tokens.
        sampling: How to choose tokens.
        limit: Most tokens of an answer.
        ends: Tokens that end an answer.
        inputs: What the model needs beside the tokens: the media of the prompt, for one row of tokens.
        answers: As many as were asked for.
        cancelled: Nobody waits any more; what it holds is to be freed.
    """

    prompt: list[int]
    sampling: Sampling
    limit: int
    ends: Collection[int]
    inputs: Mapping[str, Any] = field(default_factory=dict)
    answers: list[Answer] = field(default_factory=list)
    mailbox: Mailbox = field(default_factory=Mailbox)
    cancelled: bool = False

    @property
    def adapter(self) -> str | None:
        """The adapter that answers."""
        return self.sampling.adapter

    @property
    def finished(self) -> bool:
        """Every answer has ended."""
        return all(answer.finish_reason is not None for answer in self.answers)


@dataclass(eq=False)
class Answer:
    """One answer as it grows.

    Attributes:
        request: The request it belongs to.
        index: Its number there.
        chooser: How it chooses tokens.
        stream: Turns tokens into text.
        length: Tokens so far.
        last: The newest token.
        finish_reason: Why it ended; ``None`` while it grows.
    """

    request: Request
    index: int
    chooser: Chooser
    stream: TextStream
    length: int = 0
    last: int = -1
    finish_reason: FinishReason | None = None

    def take(self, choice: Choice) -> Delta:
        """Add a token; return what it changed."""
        self.length += 1
        self.last = choice.id
        text = self.stream.push(choice.id)
        constraint = self.chooser.constraint
        if choice.id in self.request.ends or self.stream.stopped or (constraint is not None and constraint.finished):
            self.finish_reason = "stop"
        elif self.length >= self.request.limit:
            self.finish_reason = "length"
        if self.finish_reason is not None:
            text += self.stream.finish()
            if self.stream.stopped:  # half a character was all that stood before a stop word's end
                self.finish_reason = "stop"
        return Delta(text, self.index, 1, len(self.request.prompt), self.finish_reason, self._tell(choice))

    def _tell(self, choice: Choice) -> tuple[TokenLogProb, ...]:
        if choice.told is None:
            return ()
        name = self.stream.name
        top = tuple((token, name(token), value) for token, value in choice.told.top)
        return (TokenLogProb(choice.id, name(choice.id), choice.told.chosen, top),)
