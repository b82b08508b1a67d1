# SPDX-License-Identifier: Apache-2.0
"""Rendering Jinja that strangers wrote: the sandbox of transformers, and bounds on time, memory and length.

The sandbox keeps a template from reaching Python; it does not keep it from looping for hours or from doubling a text
until the memory is full. A thread looks at the renderings under way and stops one that takes too much, between two
Python instructions. What is one instruction cannot be stopped so, therefore powers and huge numbers are refused unread.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

SECONDS = 20.0
BYTES = 2 << 30
CHARACTERS = 1 << 26
_LARGEST_NUMBER = 1_000_000  # no chat template counts that far; the sandbox's own limit for `range` is 100,000
_PAUSE = 0.05


class _Stopped(BaseException):
    """Thrown into a rendering thread; Jinja handles `Exception` only."""


class _Watch:
    """Stops renderings of this process that take too long or too much memory."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.lock = threading.Lock()
        self.running: dict[int, tuple[float, int]] = {}
        threading.Thread(target=self._look, name="jinja-limits", daemon=True).start()

    def _look(self) -> None:
        while True:
            time.sleep(_PAUSE)
            if not self.running:
                continue
            now, resident = time.monotonic(), _resident()
            with self.lock:
                for thread, (start, before) in list(self.running.items()):
                    if now - start > SECONDS or resident - before > BYTES:
                        del self.running[thread]  # thrown once: a second one could interrupt the way out
                        _throw(thread, _Stopped)

    @contextmanager
    def over(self) -> Iterator[None]:
        """Watch what this thread does inside."""
        thread = threading.get_ident()
        with self.lock:
            self.running[thread] = (time.monotonic(), _resident())
        try:
            yield
        finally:
            with self.lock:  # from here on nothing is thrown
                self.running.pop(thread, None)
            for _ in range(2):  # what was thrown arrives, at the latest where a loop goes round
                pass


def _throw(thread: int, error: type[BaseException]) -> None:
    """Raise ``error`` in a thread at its next instruction.

    Taking back what has not arrived (NULL) is no way out: CPython 3.11 then looks for it for ever, in every thread,
    which makes all of Python slower and a traced function (debugger, coverage) hang.
    """
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(error))


_watch: _Watch | None = None


@contextmanager
def limited(source: str) -> Iterator[None]:
    """Bound the rendering of ``source`` inside; not to be nested.

    Raises:
        jinja2.TemplateError: It asks for too large a step, takes too long or too much memory, or recurses without end.
    """
    import jinja2

    _refuse_huge_steps(source)
    global _watch
    if _watch is None or _watch.pid != os.getpid():  # a forked worker has no threads
        _watch = _Watch()
    try:
        with _watch.over():
            yield
    except _Stopped:
        reason = f"rendering takes more than {SECONDS:g} s or {BYTES >> 20} MiB; is there an endless loop?"
        raise jinja2.TemplateError(reason) from None
    except (OverflowError, RecursionError, MemoryError) as error:
        raise jinja2.TemplateError(" ".join(str(error).split()) or type(error).__name__) from None


def render(source: str, chat: list[dict[str, Any]], **keys: Any) -> tuple[str, list[tuple[int, int]]]:
    """Render one conversation.

    Args:
        source: The Jinja.
        chat: OpenAI messages.
        keys: What ``transformers.utils.chat_template_utils.render_jinja_template`` takes besides.

    Returns:
        The text, and the spans of ``{% generation %}`` marks where these were asked for.

    Raises:
        jinja2.TemplateError: The template is wrong or takes too much.
    """
    import jinja2
    from transformers.utils.chat_template_utils import render_jinja_template

    with limited(source):
        texts, spans = render_jinja_template([chat], chat_template=source, **keys)
    if len(texts[0]) > CHARACTERS:
        raise jinja2.TemplateError(f"rendered {len(texts[0])} characters, more than {CHARACTERS}")
    return texts[0], spans[0] if spans else []


@lru_cache(maxsize=64)
def _refuse_huge_steps(source: str) -> None:
    import jinja2

    for line, kind, value in jinja2.Environment().lex(source):
        if kind == "operator" and value == "**":
            raise jinja2.TemplateSyntaxError("powers (**) are not allowed in a chat template", line)
        if kind == "integer" and int(value.replace("_", ""), 0) > _LARGEST_NUMBER:
            raise jinja2.TemplateSyntaxError(
                f"numbers above {_LARGEST_NUMBER} are not allowed in a chat template", line
            )


def _resident() -> int:
    """Memory of this process in bytes; 0 where the system does not tell."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except FileNotFoundError:
        return 0
