# SPDX-License-Identifier: Apache-2.0
"""What loading a model does at the moment, taken from what the house logs and from transformers' bars."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ...extras.logging import ROOT


class Abandoned(Exception):
    """Nobody wants what is being made any more."""


@contextmanager
def watched(report: Callable[[str], None], is_abandoned: Callable[[], bool]) -> Iterator[None]:
    """Inside the block, tell what this thread does, and stop it where it counts its steps.

    Args:
        report: Gets each new step.
        is_abandoned: Whether to stop.

    Raises:
        Abandoned: It was to stop, and has.
    """
    report("importing torch and transformers")
    from transformers.utils import logging as transformers_logging

    thread = threading.get_ident()

    def look(step: str) -> None:
        if is_abandoned():
            raise Abandoned
        report(step)

    def bar(factory: Callable[..., Any], args: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        made = factory(*args, **keywords)
        return _Bar(made, args, keywords, look) if threading.get_ident() == thread else made

    lines = _Lines(report, thread)
    logging.getLogger(ROOT).addHandler(lines)
    before = transformers_logging.set_tqdm_hook(bar)
    try:
        look("")
        yield
    finally:
        transformers_logging.set_tqdm_hook(before)
        logging.getLogger(ROOT).removeHandler(lines)


class _Lines(logging.Handler):
    """Hands on what one thread logs."""

    def __init__(self, report: Callable[[str], None], thread: int) -> None:
        super().__init__(logging.INFO)
        self._report, self._thread = report, thread

    def emit(self, record: logging.LogRecord) -> None:
        if record.thread == self._thread:
            self._report(record.getMessage())


class _Bar:
    """A bar of transformers that also tells what it counts."""

    def __init__(
        self, bar: Any, args: tuple[Any, ...], keywords: dict[str, Any], report: Callable[[str], None]
    ) -> None:
        self._bar, self._report = bar, report
        items: Any = args[0] if args else keywords.get("iterable")
        self._name = keywords.get("desc") or ""
        self._total = keywords.get("total") or (len(items) if hasattr(items, "__len__") else None)
        self._count = 0

    def __iter__(self) -> Iterator[Any]:
        for item in self._bar:
            yield item
            self._step(1)

    def update(self, n: int = 1) -> Any:
        """So many more are done."""
        self._step(n)
        return self._bar.update(n)

    def __enter__(self) -> _Bar:
        self._bar.__enter__()
        return self

    def __exit__(self, *error: object) -> Any:
        return self._bar.__exit__(*error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bar, name)

    def _step(self, n: int) -> None:
        self._count += n
        self._report(f"{self._name} {self._count}" + (f"/{self._total}" if self._total else ""))
