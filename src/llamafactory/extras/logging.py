# SPDX-License-Identifier: Apache-2.0
"""Log lines: one format, one level (``LLAMAFACTORY_VERBOSITY``), and helpers that speak once, not once a process."""

from __future__ import annotations

import logging
import os
import sys
import threading
from typing import Any, cast

from .errors import ConfigError
from .secrets import mask

ROOT = "llamafactory"
# What these say when they are imported is about kernels of other machines; a user can do nothing about it.
_TALKATIVE = ("torchao", "bitsandbytes.backends.cpu.ops", "torch.utils._pytree")
_lock = threading.Lock()
_said: set[str] = set()


class Logger(logging.Logger):
    """A standard logger that also knows the rank of this process."""

    def info_rank0(self, message: str, *args: Any) -> None:
        """Log at INFO on the first process only."""
        if is_rank0():
            self.info(message, *args)

    def warning_rank0(self, message: str, *args: Any) -> None:
        """Log at WARNING on the first process only."""
        if is_rank0():
            self.warning(message, *args)

    def info_once(self, message: str, *args: Any) -> None:
        """Log a text at INFO the first time it comes up, on the first process only."""
        if _is_new(message % args if args else message):
            self.info_rank0(message, *args)

    def warning_once(self, message: str, *args: Any) -> None:
        """Log a text at WARNING the first time it comes up, on the first process only."""
        if _is_new(message % args if args else message):
            self.warning_rank0(message, *args)


def _is_new(text: str) -> bool:
    with _lock:
        new = text not in _said
        _said.add(text)
    return new


def is_rank0() -> bool:
    """Whether this process is the first of the run, as the launcher numbered them."""
    return os.environ.get("RANK", "0") == "0"


def get_logger(name: str) -> Logger:
    """Return the logger of one module (``get_logger(__name__)``); it writes to stderr.

    Raises:
        ConfigError: ``LLAMAFACTORY_VERBOSITY`` is not a log level.
    """
    _configure()
    before = logging.getLoggerClass()
    logging.setLoggerClass(Logger)
    try:
        return cast(Logger, logging.getLogger(name if name.startswith(ROOT) else f"{ROOT}.{name}"))
    finally:
        logging.setLoggerClass(before)


class _Stderr(logging.StreamHandler):
    """Writes to what ``sys.stderr`` is at that moment, so that redirected output stays redirected."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> Any:
        return sys.stderr

    def emit(self, record: logging.LogRecord) -> None:
        """A line of its own: progress bars are taken off the screen and drawn again below it."""
        bars = _drawn_bars()
        for bar in bars:
            bar.clear()
        super().emit(record)
        for bar in bars:
            bar.refresh()


def _drawn_bars() -> list[Any]:
    """The progress bars on the screen: not those that are switched off, or that wait until their work is a long one."""
    bars = sys.modules.get("tqdm")
    known = list(getattr(bars.tqdm, "_instances", ())) if bars is not None else []
    return [bar for bar in known if not bar.disable and bar.last_print_t >= bar.start_t + bar.delay]


def end_bars() -> None:
    """Close every progress bar, each with the end of its line: what is written next begins a new one."""
    for bar in _drawn_bars():
        bar.leave = True  # else its text is wiped out by spaces on the same line, which a log file keeps
        bar.close()


class _Formatter(logging.Formatter):
    """Leaves secrets out."""

    def format(self, record: logging.LogRecord) -> str:
        return mask(super().format(record))


def _configure() -> None:
    root = logging.getLogger(ROOT)
    with _lock:
        if root.handlers:
            return
        level = os.environ.get("LLAMAFACTORY_VERBOSITY", "INFO").upper()
        levels = logging.getLevelNamesMapping()
        if level not in levels:
            raise ConfigError(f"LLAMAFACTORY_VERBOSITY: expected one of {', '.join(levels)}, got {level!r}")
        handler = _Stderr()
        handler.setFormatter(_Formatter("[%(levelname)s|%(asctime)s] %(message)s", "%H:%M:%S"))
        root.addHandler(handler)
        root.setLevel(level)
        root.propagate = False
        for name in _TALKATIVE:
            logging.getLogger(name).setLevel(logging.ERROR)
