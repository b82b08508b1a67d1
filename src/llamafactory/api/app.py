# SPDX-License-Identifier: Apache-2.0
"""``llamafactory-cli api``: the server process, from its configuration to its end."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

import uvicorn
from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware

from .. import __version__, plugins
from ..extras.errors import ConfigError
from ..extras.logging import get_logger
from ..hparams import InferArgs, get_infer_args
from . import errors
from .guard import Guard
from .routes import make_router
from .server import Server
from .settings import ServerSettings

if TYPE_CHECKING:
    from ..chat.base_engine import Engine

logger = get_logger(__name__)


def run_api(args: InferArgs | Mapping[str, Any] | Sequence[str] | None = None) -> None:
    """Load the model and serve it until SIGTERM or Ctrl-C; then finish what is running, for a limited time.

    Args:
        args: Parsed arguments, or what ``get_infer_args`` takes (``None``: the command line).

    Raises:
        ConfigError: The configuration, the environment or the model cannot be used, or the port is taken.
    """
    args = args if isinstance(args, InferArgs) else get_infer_args(args)
    settings = ServerSettings.from_environment()
    with closing(bind(settings)) as listener:  # before the model is loaded: a taken port shows at once
        engine: Engine = plugins.resolve("engines", args.model.infer_backend)(args)
        try:
            server = Server(engine, settings, scores=args.finetuning.stage == "rm")
            logger.info_rank0("serving %s at %s (documentation: /docs)", ", ".join(server.names), _url(listener))
            make_process(server).run(sockets=[listener])
        finally:
            engine.close()


def make_app(server: Server) -> Guard:
    """The whole web application of one served model."""
    settings = server.settings
    app = FastAPI(title="llamafactory", version=__version__, root_path=settings.root_path)
    errors.install(app)
    if settings.origins:
        # Without credentials: a page never acts with what the browser has stored for this server.
        app.add_middleware(
            CORSMiddleware, allow_origins=list(settings.origins), allow_methods=["*"], allow_headers=["*"]
        )
    app.include_router(make_router(server))
    return Guard(app, settings, server.metrics)


def bind(settings: ServerSettings) -> socket.socket:
    """Take the address; nobody can connect yet.

    Raises:
        ConfigError: It cannot be had.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host.strip("[]"), settings.port))
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"API_HOST, API_PORT: cannot bind {settings.host}:{settings.port}: {error.strerror}"
        ) from None
    return listener


def make_process(server: Server) -> uvicorn.Server:
    """What answers requests until a signal comes and what was running is finished."""
    config = uvicorn.Config(
        make_app(server),
        lifespan="off",
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=int(server.settings.drain_seconds),
    )
    return _Process(config, server)


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}/v1" if ":" in host else f"http://{host}:{port}/v1"


class _Process(uvicorn.Server):
    """Takes signals as an order to finish; afterwards the process goes on to its own end, with exit code 0."""

    def __init__(self, config: uvicorn.Config, server: Server) -> None:
        super().__init__(config)
        self._served = server

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
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
        self._served.admission.draining = True
        super().handle_exit(sig, frame)
