# SPDX-License-Identifier: Apache-2.0
"""A request inside the huggingface engine: its completions as they grow, and the way back to who sent it."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .base_engine import Delta, FinishReason, TokenLogProb
from .sampler import SampledToken, Sampler
from .text_stream import TextStream

if TYPE_CHECKING:
    from .sampling import Sampling


class Mailbox:
    """Hands what the engine's thread makes to one coroutine. Made where the coroutine runs."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.queue: asyncio.Queue[list[Delta] | BaseException] = asyncio.Queue()


class Outbox:
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
    """A prompt and how to complete it. Made in the coroutine that waits for the completions.

    Attributes:
        prompt: Its tokens.
        sampling: How to choose tokens.
        limit: Most tokens of a completion.
        ends: Tokens that end a completion.
        inputs: What the model needs beside the tokens: the media of the prompt, for one row of tokens.
        completions: As many as were requested.
        cancelled: Nobody waits any more; what it holds is to be freed.
    """

    prompt: list[int]
    sampling: Sampling
    limit: int
    ends: Collection[int]
    inputs: Mapping[str, Any] = field(default_factory=dict)
    completions: list[Completion] = field(default_factory=list)
    mailbox: Mailbox = field(default_factory=Mailbox)
    cancelled: bool = False

    @property
    def adapter(self) -> str | None:
        """The adapter that generates."""
        return self.sampling.adapter

    @property
    def finished(self) -> bool:
        """Every completion has ended."""
        return all(completion.finish_reason is not None for completion in self.completions)


@dataclass(eq=False)
class Completion:
    """One completion as it grows.

    Attributes:
        request: The request it belongs to.
        index: Its number there.
        sampler: Chooses its tokens.
        stream: Turns tokens into text.
        length: Tokens so far.
        last: The newest token.
        finish_reason: Why it ended; ``None`` while it grows.
    """

    request: Request
    index: int
    sampler: Sampler
    stream: TextStream
    length: int = 0
    last: int = -1
    finish_reason: FinishReason | None = None

    def take(self, token: SampledToken) -> Delta:
        """Add a token; return what it changed."""
        self.length += 1
        self.last = token.id
        text = self.stream.push(token.id)
        constraint = self.sampler.constraint
        if token.id in self.request.ends or self.stream.stopped or (constraint is not None and constraint.finished):
            self.finish_reason = "stop"
        elif self.length >= self.request.limit:
            self.finish_reason = "length"
        if self.finish_reason is not None:
            text += self.stream.finish()
            if self.stream.stopped:  # half a character was all that stood before a stop word's end
                self.finish_reason = "stop"
        return Delta(text, self.index, 1, len(self.request.prompt), self.finish_reason, self._log_probs(token))

    def _log_probs(self, token: SampledToken) -> tuple[TokenLogProb, ...]:
        if token.log_probs is None:
            return ()
        name = self.stream.name
        top = tuple((other, name(other), value) for other, value in token.log_probs.top)
        return (TokenLogProb(token.id, name(token.id), token.log_probs.sampled, top),)
