# SPDX-License-Identifier: Apache-2.0
"""Continuous batching: one thread owns the model, requests join and leave between two tokens."""

from __future__ import annotations

import atexit
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..extras import threads
from ..model.whole import not_finite
from .continuous_batching import ModelRunner, Reading
from .request import Completion, Outbox, Request
from .sampler import NO_TOKEN, sample

T = TypeVar("T")

PROMPT_TOKENS = 1024  # read between two steps of decoding: completions under way never wait longer than for so many


class Scheduler:
    """Runs requests and single jobs on a thread of its own.

    In each round it drops what was cancelled, reads at most :data:`PROMPT_TOKENS` of waiting prompts (first come,
    first served) and makes one token for every completion.

    Args:
        runner: The model; used only on this thread.
        max_batch_size: Most completions that grow together.
    """

    def __init__(self, runner: ModelRunner, max_batch_size: int) -> None:
        self._runner = runner
        self._size = max_batch_size
        self._outbox = Outbox()
        self._waiting: deque[Request] = deque()
        self._active: dict[Request, Reading | None] = {}
        self._jobs: deque[tuple[Callable[[], Any], str | None, Request | None, Future]] = deque()
        self._alone: Request | None = None
        self._wake = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()
        # A thread inside torch when the interpreter goes ends the process with an abort: it has to leave first.
        atexit.register(self.close)

    @property
    def load(self) -> tuple[int, int]:
        """How many completions grow, and how many requests wait or are read."""
        return len(self._runner), len(self._waiting) + sum(reading is not None for reading in self._active.values())

    def submit(self, request: Request) -> None:
        """Queue a request; its deltas come to its mailbox."""
        with self._wake:
            self._refuse_if_closed()
            self._waiting.append(request)
            self._wake.notify()

    def cancel(self, request: Request) -> None:
        """Free what a request holds before the next token is made. Safe when it has ended."""
        with self._wake:
            request.cancelled = True
            self._wake.notify()

    def run_alone(self, job: Callable[[], T], adapter: str | None = None, request: Request | None = None) -> Future[T]:
        """Run something between two steps, with the model (and an adapter) to itself.

        Args:
            job: What to run.
            adapter: The adapter in use while it runs.
            request: What the job completes; it is cancelled when the engine closes before the job's end.
        """
        future: Future[T] = Future()
        with self._wake:
            self._refuse_if_closed()
            self._jobs.append((job, adapter, request, future))
            self._wake.notify()
        return future

    def close(self) -> None:
        """End the thread after the present step; requests under way fail."""
        with self._wake:
            self._closed = True
            if self._alone is not None:
                self._alone.cancelled = True
            self._wake.notify()
        self._thread.join()
        atexit.unregister(self.close)

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise RuntimeError("the engine is closed")

    @torch.inference_mode()
    def _run(self) -> None:
        while self._sleep():
            threads.look_again()
            self._drop_cancelled()
            self._run_jobs()
            self._read_prompts()
            for adapter in self._runner.groups():
                self._step(adapter)
            self._outbox.send()
        for request in [*self._active, *self._waiting]:
            self._fail(request, RuntimeError("the engine was closed"))
        for *_, future in self._jobs:
            future.cancel()

    def _sleep(self) -> bool:
        """Wait until there is something to do; false when the engine closes."""
        with self._wake:
            while not (self._closed or self._waiting or self._active or self._jobs):
                self._wake.wait()
            return not self._closed

    def _drop_cancelled(self) -> None:
        for request in [request for request in self._active if request.cancelled]:
            self._release(request)
        with self._wake:
            self._waiting = deque(request for request in self._waiting if not request.cancelled)

    def _run_jobs(self) -> None:
        while (next_job := self._take_job()) is not None:
            job, adapter, future = next_job
            if not future.set_running_or_notify_cancel():
                continue
            try:
                self._runner.adapters.use(adapter)
                future.set_result(job())
            except Exception as error:  # whatever it is, it belongs to its request, not to this thread
                future.set_exception(error)
            self._alone = None

    def _take_job(self) -> tuple[Callable[[], Any], str | None, Future] | None:
        with self._wake:
            if self._closed or not self._jobs:
                return None
            job, adapter, self._alone, future = self._jobs.popleft()
            return job, adapter, future

    def _read_prompts(self) -> None:
        """Go on with a long prompt, or read as many waiting ones as fit."""
        requests = [request for request, reading in self._active.items() if reading is not None]
        requests = requests or self._next_to_read()
        if not requests:
            return
        try:
            if requests[0].inputs:
                self._read_media(requests[0])
            elif len(requests) == 1 and len(requests[0].prompt) > PROMPT_TOKENS:
                self._read_part(requests[0])
            else:
                self._read_whole(requests)
        except Exception as error:  # for example out of memory: these requests fail, the others go on
            for request in requests:
                self._fail(request, error)

    def _next_to_read(self) -> list[Request]:
        """Take the first waiting request, and those after it that fit: same adapter, room, tokens in one forward.

        One with media is read alone.
        """
        taken: list[Request] = []
        room = self._size - sum(len(request.completions) for request in self._active)
        tokens = 0
        with self._wake:
            while self._waiting:
                request = self._waiting[0]
                tokens += len(request.prompt)
                room -= len(request.completions)
                if room < 0 or (taken and (tokens > PROMPT_TOKENS or request.adapter != taken[0].adapter)):
                    break
                if taken and (request.inputs or taken[0].inputs):
                    break
                taken.append(self._waiting.popleft())
                self._active[request] = Reading()
        return taken

    def _read_part(self, request: Request) -> None:
        reading = self._active[request]
        assert reading is not None
        part = request.prompt[reading.read : reading.read + PROMPT_TOKENS]
        logits = self._runner.read_part(reading, part, request.adapter)
        if reading.read == len(request.prompt):
            self._admit([request], [reading], logits)

    def _read_media(self, request: Request) -> None:
        readings, logits = self._runner.read_media(request.prompt, request.inputs, request.adapter)
        request.inputs = {}  # the pixels are not needed again
        self._admit([request], readings, logits)

    def _read_whole(self, requests: list[Request]) -> None:
        readings, logits = self._runner.read_whole([request.prompt for request in requests], requests[0].adapter)
        self._admit(requests, readings, logits)

    def _admit(self, requests: list[Request], readings: list[Reading], logits: Tensor) -> None:
        """Give every completion its first token and a slot; completions of one request share what was read."""
        completions = [completion for request in requests for completion in request.completions]
        rows = [row for row, request in enumerate(requests) for _ in request.completions]
        for request in requests:
            self._active[request] = None
        self._sample(completions, logits[rows])
        for completion, row in zip(completions, rows, strict=True):
            if completion.finish_reason is None and completion.request in self._active:
                self._runner.admit(completion, readings[row], completion.last, completion.request.adapter)

    def _step(self, adapter: str | None) -> None:
        try:
            completions, logits = self._runner.step(adapter)
            self._sample(completions, logits)
        except Exception as error:  # as above, but it is not known whose fault it is
            for request in [request for request in self._active if request.adapter == adapter]:
                self._fail(request, error)
            return
        for completion in completions:
            if completion.finish_reason is None and completion.request in self._active:
                self._runner.advance(completion, completion.last)
            else:
                self._runner.drop(completion)

    def _sample(self, completions: list[Completion], logits: Tensor) -> None:
        broken: set[Request] = set()
        for completion, token in zip(
            completions, sample(logits, [completion.sampler for completion in completions]), strict=True
        ):
            if token.id == NO_TOKEN:
                broken.add(completion.request)
            else:
                self._outbox.add(completion.request.mailbox, completion.take(token))
        for request in broken:
            self._fail(request, not_finite("logits"))
        for request in {completion.request for completion in completions} - broken:
            if request.finished:
                self._active.pop(request)

    def _fail(self, request: Request, error: Exception) -> None:
        self._release(request)
        self._outbox.fail(request.mailbox, error)

    def _release(self, request: Request) -> None:
        self._active.pop(request, None)
        for completion in request.completions:
            self._runner.drop(completion)
