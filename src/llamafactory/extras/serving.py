# SPDX-License-Identifier: Apache-2.0
"""What the servers of the house share: taking an address, and a process that ends in order."""

from __future__ import annotations

import errno
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Literal

import uvicorn

from .errors import ConfigError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive


def bind(host: str, port: int, variables: str) -> socket.socket:
    """Take an address; nobody can connect yet.

    Args:
        host: Name or address, IPv6 with or without brackets.
        port: Port; 0 = any free one.
        variables: Names of the settings, for the error.

    Raises:
        ConfigError: It cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host.strip("[]"), port))
    except OSError as error:
        listener.close()
        cure = ""
        if error.errno == errno.EADDRINUSE:
            variable = variables.split()[-1]
            cure = f"; stop the other program, or put {variable}={port + 1} before the command"
        raise ConfigError(f"{variables}: cannot bind {host}:{port}: {error.strerror}{cure}") from None
    return listener


def replay(body: bytes, receive: Receive) -> Receive:
    """Gives a body that was read already, then what the connection says next (that the client went away)."""
    first: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def next_message() -> Message:
        return first.pop() if first else await receive()

    return next_message


def url_of(listener: socket.socket) -> str:
    """The address of a listener as a browser writes it, without a slash at the end."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class Process(uvicorn.Server):
    """Takes signals as an order to finish; afterwards the process goes on to its own end, with exit code 0.

    Args:
        app: What is served.
        on_signal: Called when a signal comes, before anything ends.
        drain_seconds: How long requests under way may go on then.
        lifespan: Whether the application is told of its start and end, as uvicorn names it.
    """

    def __init__(
        self, app: ASGIApp, on_signal: Callable[[], None], drain_seconds: float, lifespan: Literal["auto", "off"]
    ) -> None:
        config = uvicorn.Config(
            app,
            lifespan=lifespan,
            ws="none",
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=int(drain_seconds),
        )
        super().__init__(config)
        self._on_signal = on_signal

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle SIGINT and SIGTERM while the block runs (in the main thread only)."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal came."""
        if not self.should_exit:  # past the log, whose stream the signal may have come amid
            seconds = self.config.timeout_graceful_shutdown
            os.write(2, f"\nstopping; requests under way have {seconds} s (Ctrl-C: at once)\n".encode())
        self._on_signal()
        super().handle_exit(sig, frame)
