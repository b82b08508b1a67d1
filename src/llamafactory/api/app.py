# SPDX-License-Identifier: Apache-2.0
"""``llamafactory-cli api``: the server process, from its configuration to its end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware

from .. import __version__
from ..chat.base_engine import Engine, load_engine
from ..extras.errors import ConfigError
from ..extras.logging import get_logger
from ..extras.serving import Process, bind, url_of
from ..hparams import InferArgs, get_infer_args
from ..model.vectors import vector_settings
from . import errors
from .guard import Guard
from .routes import make_router
from .server import Server
from .settings import ServerSettings

if TYPE_CHECKING:
    from ..chat.chat_model import ChatModel

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
    if args.finetuning.stage == "classification":
        raise ConfigError("stage: classifiers are not served; transformers' pipeline takes the folder of export")
    # Before the model is loaded: a taken port shows at once.
    with (
        closing(bind(settings.host, settings.port, "API_HOST, API_PORT")) as listener,
        closing(load_engine(args)) as engine,
    ):
        server = _server(engine, settings, args)
        logger.info_rank0("serving %s at %s/v1 (documentation: /docs)", ", ".join(server.names), url_of(listener))
        make_process(server).run(sockets=[listener])


def create_app(chat_model: ChatModel) -> Guard:
    """The whole web application of a model that is loaded already, for an ASGI server of your own.

    The environment says the rest, as for :func:`run_api`; address and time to drain are the business of that server.

    Raises:
        ConfigError: The environment cannot be used.
    """
    return make_app(_server(chat_model.engine, ServerSettings.from_environment(), chat_model.args))


def _server(engine: Engine, settings: ServerSettings, args: InferArgs) -> Server:
    prompts = None
    if args.finetuning.stage == "embedding":
        found = vector_settings(args)
        prompts = {kind: found.prompt(kind) for kind in ("query", "document")}
    pairs = args.finetuning.stage == "reranker"
    return Server(engine, settings, pairs or args.finetuning.stage == "rm", prompts, pairs)


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


def make_process(server: Server) -> Process:
    """What answers requests until a signal comes and what was running is finished."""

    def refuse_more() -> None:
        server.admission.draining = True

    return Process(make_app(server), refuse_more, server.settings.drain_seconds, lifespan="off")
