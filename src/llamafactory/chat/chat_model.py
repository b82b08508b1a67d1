# SPDX-License-Identifier: Apache-2.0
"""``ChatModel``: the engine the user chose, callable from ordinary and from async code."""

from __future__ import annotations

import asyncio
import json
import queue
import threading
from collections.abc import AsyncGenerator, Coroutine, Generator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, TypeVar

from ..data.messages import Message
from ..extras.errors import ConfigError
from ..extras.surrogates import refuse_lone
from ..hparams import InferArgs, get_infer_args
from .base_engine import Engine, Response, load_engine

T = TypeVar("T")


class ChatModel:
    """A loaded model to talk to.

    Messages are OpenAI-style dicts (``{"role": ..., "content": ...}``) or :class:`Message`; ``system`` goes in front of
    them, ``tools`` is a list of function descriptions or its JSON text. Overrides are listed at :class:`Engine`.

    Args:
        args: Parsed arguments, or what ``get_infer_args`` takes (``None``: the command line).
    """

    def __init__(self, args: InferArgs | Mapping[str, Any] | Sequence[str] | None = None) -> None:
        self.args = args if isinstance(args, InferArgs) else get_infer_args(args)
        self.engine: Engine = load_engine(self.args)
        # Engines are async; this loop runs them for callers that are not, and stays out of the way of Ctrl-C.
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="chat", daemon=True).start()

    def chat(
        self, messages: Sequence[dict | Message], system: str | None = None, tools: Any = None, **overrides: Any
    ) -> list[Response]:
        """Answer a conversation; one response, or ``num_return_sequences``."""
        return self._wait(self.achat(messages, system, tools, **overrides))

    def stream_chat(
        self, messages: Sequence[dict | Message], system: str | None = None, tools: Any = None, **overrides: Any
    ) -> Generator[str, None, None]:
        """Yield one response in pieces. Leaving the loop early (``close()``) ends the generation."""
        pieces: queue.SimpleQueue[str | None] = queue.SimpleQueue()

        async def pump() -> None:
            try:
                async for piece in self.astream_chat(messages, system, tools, **overrides):
                    pieces.put(piece)
            finally:
                pieces.put(None)

        future = asyncio.run_coroutine_threadsafe(pump(), self._loop)
        try:
            while (piece := pieces.get()) is not None:
                yield piece
            future.result()  # raises what went wrong
        finally:
            future.cancel()

    def get_scores(self, texts: Sequence[str], **overrides: Any) -> list[float]:
        """Score whole texts with a reward model."""
        return self._wait(self.aget_scores(texts, **overrides))

    async def achat(
        self, messages: Sequence[dict | Message], system: str | None = None, tools: Any = None, **overrides: Any
    ) -> list[Response]:
        """Async :meth:`chat`."""
        return await self.engine.chat(to_messages(messages, system), to_tools(tools), **overrides)

    async def astream_chat(
        self, messages: Sequence[dict | Message], system: str | None = None, tools: Any = None, **overrides: Any
    ) -> AsyncGenerator[str, None]:
        """Async :meth:`stream_chat`."""
        response = self.engine.stream_chat(to_messages(messages, system), to_tools(tools), **overrides)
        async with aclosing(response) as pieces:
            async for piece in pieces:
                yield piece

    async def aget_scores(self, texts: Sequence[str], **overrides: Any) -> list[float]:
        """Async :meth:`get_scores`."""
        return await self.engine.get_scores(texts, **overrides)

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        """Run async work on the loop's thread; an interrupt of the waiting thread cancels it."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise


def to_messages(messages: Sequence[Mapping[str, Any] | Message], system: str | None = None) -> list[Message]:
    """Return messages in the native form, ``system`` in front.

    Raises:
        ConfigError: A dict is not an OpenAI chat message, or a system text is given twice.
    """
    native = [message if isinstance(message, Message) else Message.from_openai(message) for message in messages]
    if not system:
        return native
    if native and native[0].role == "system":
        raise ConfigError("system: given as an argument and as the first message; give it once")
    return [Message.of("system", system), *native]


def to_tools(tools: str | Sequence[dict] | None) -> list[dict]:
    """Return tool descriptions as a list; JSON text is read.

    Raises:
        ConfigError: The text is not a JSON list of objects.
    """
    if isinstance(tools, str) and tools:
        try:
            tools = json.loads(text := tools)
        except (json.JSONDecodeError, RecursionError) as error:  # the latter: nested without end
            raise ConfigError(f"tools: not JSON ({error})") from error
        refuse_lone(text, tools, "tools")
        if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
            raise ConfigError("tools: expected a JSON list of function descriptions")
    return list(tools or ())
