# SPDX-License-Identifier: Apache-2.0
"""``llamafactory-cli webui`` and ``webchat``: the page in the browser, from its configuration to its end."""

from __future__ import annotations

import os
import platform
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ..chat.base_engine import load_engine
from ..data.template.thinking import resolve_thinking
from ..extras.errors import ConfigError
from ..extras.logging import get_logger
from ..extras.packages import require, require_installed
from ..extras.serving import Process, bind, url_of
from ..hparams import InferArgs, get_infer_args
from ..hparams.stages import require_text
from .chat_page import STYLE, TITLE, make_page
from .runner import RUN_TABS
from .serving.guard import Guard
from .serving.loading import LoadingPage
from .serving.settings import WebSettings
from .texts.texts import text

if TYPE_CHECKING:
    from ..chat.base_engine import Engine

logger = get_logger(__name__)

VARIABLES = "GRADIO_SERVER_NAME, GRADIO_SERVER_PORT"
TABS = ("train", "eval", "infer", "export", "data", "jobs")
PORTS = range(7860, 7960)  # where gradio looks for a free one
DRAIN_SECONDS = 3
BOARD_STYLE, BOARD_SCRIPT = (Path(__file__).with_name(name) for name in ("board.css", "board.js"))


def run_web_demo(args: InferArgs | Mapping[str, Any] | Sequence[str] | None = None) -> None:
    """Load the model and serve the page until SIGTERM or Ctrl-C.

    Args:
        args: Parsed arguments, or what ``get_infer_args`` takes (``None``: the command line).

    Raises:
        ConfigError: The configuration, the environment or the model cannot be used, or the port is taken.
    """
    args, settings = _read(args)
    # Before the model is loaded: a taken port shows at once, and who looks sees that something happens.
    with closing(take_address(settings)) as listener, ExitStack() as stack:
        with LoadingPage(listener):
            logger.info_rank0("open %s in a browser; the model is loading", url_of(listener))
            engine = stack.enter_context(closing(load_engine(args)))
            app = make_app(engine, args, settings)
        if settings.share:
            share(app, listener)
        logger.info_rank0("the page is ready at %s", url_of(listener))
        make_process(app).run(sockets=[listener])


def create_web_demo(args: InferArgs | Mapping[str, Any] | Sequence[str] | None = None) -> Any:
    """Load the model and build its page, for a server of your own (``page.launch()``).

    What :func:`run_web_demo` puts before the page is not in it: login, checks of Host and Origin, limits of size.

    Args:
        args: Parsed arguments, or what ``get_infer_args`` takes (``None``: the command line).

    Returns:
        ``gradio.Blocks``; the model stays loaded until the process ends.

    Raises:
        ConfigError: The configuration, the environment or the model cannot be used.
    """
    args, settings = _read(args)
    return make_page(load_engine(args), args, settings.max_waiting)


def _read(args: InferArgs | Mapping[str, Any] | Sequence[str] | None) -> tuple[InferArgs, WebSettings]:
    """Return configuration and environment of the page, before anything is loaded."""
    args = args if isinstance(args, InferArgs) else get_infer_args(args)
    settings = WebSettings.from_environment()
    require_installed("gradio", "webchat", "'gradio>=6'")  # importing it takes seconds
    require_text(args.finetuning.stage)
    return replace(args, data=resolve_thinking(args.data)), settings


def take_address(settings: WebSettings) -> socket.socket:
    """Bind the address of the settings.

    Raises:
        ConfigError: It is taken, or it is none.
    """
    if settings.port is not None:
        return bind(settings.host, settings.port, VARIABLES)
    for port in PORTS[:-1]:
        try:
            return bind(settings.host, port, VARIABLES)
        except ConfigError:
            continue
    return bind(settings.host, PORTS[-1], VARIABLES)


def make_app(engine: Engine, args: InferArgs, settings: WebSettings) -> Guard:
    """The whole web application of one loaded model."""
    return mount(make_page(engine, args, settings.max_waiting), settings, settings.max_upload if engine.media else 0)


def create_ui(demo_mode: bool = False) -> Any:
    """Build LLaMA Board: train, evaluate, talk, export, data and jobs on one page.

    Args:
        demo_mode: The page is shown to everybody: nothing is run or exported.

    Returns:
        ``gradio.Blocks``, with its ``board``, to be closed at the end. What :func:`run_web_ui` puts before it is not in
        it: login, checks of Host and Origin, limits of size.
    """
    gr = require("gradio", "webui", "'gradio>=6'")
    from . import components
    from .components.chatbot import KEPT_SECONDS
    from .engine import Engine as Board
    from .handlers import live

    board = Board(demo_mode=demo_mode)
    manager = board.manager
    host = os.environ.get("HOSTNAME", os.environ.get("COMPUTERNAME", platform.node())).split(".")[0]
    kept = (KEPT_SECONDS, KEPT_SECONDS)
    title = f"LLaMA Board ({host})" if host else "LLaMA Board"
    with gr.Blocks(title=title, analytics_enabled=False, delete_cache=kept) as page:
        manager.add_elems("top", components.create_top(remember=not demo_mode))
        manager.add_elems("page", {"spoken": gr.State(board.language)})
        names = [name for name in TABS if not (demo_mode and name == "export")]
        manager.add_elems("timer", live.create_timers(names))
        tabs = {}
        for name in names:
            create = getattr(components, f"create_{name}_tab")
            with gr.Tab(text(board.language, f"tabs.{name}"), id=name, elem_id=f"tab-{name}") as tabs[name]:
                manager.add_elems(name, create(board))
        manager.add_elems("tabs", tabs)
        manager.add_elems("footer", components.create_footer())
        live.connect(board, tabs)
        _connect(gr, page, board)
    page.board = board
    return page


def _connect(gr: Any, page: Any, board: Any) -> None:
    """What happens when the page is opened, and when another language is chosen."""
    from .components.widgets import IN_TURN

    manager, runner = board.manager, board.runner
    lang, spoken = (manager.get_elem_by_id(name) for name in ("top.lang", "page.spoken"))
    page.load(board.resume, None, board.resumed(), **IN_TURN)
    said = gr.on([lang.input, spoken.change], board.change_lang, [lang], manager.get_elem_list(), **IN_TURN)
    for tab in RUN_TABS:
        if manager.has(f"{tab}.job"):
            said = said.then(runner.handle(tab, runner.say_again), runner.inputs(tab), runner.outputs(tab), **IN_TURN)


def run_web_ui(args: Sequence[str] | None = None) -> None:
    """Serve LLaMA Board until SIGTERM or Ctrl-C; the workspace is the folder that the command is started in.

    Args:
        args: Words behind the command (``None``: the command line): ``--share`` alone.

    Raises:
        ConfigError: The environment cannot be used, or the port is taken.
    """
    settings = read_board_settings(sys.argv[2:] if args is None else args)
    require_installed("gradio", "webui", "'gradio>=6'")
    demo_mode = bool(os.environ.get("DEMO_MODEL"))
    with closing(take_address(settings)) as listener, ExitStack() as stack:
        with LoadingPage(listener):
            page = create_ui(demo_mode)
            board = stack.enter_context(closing(page.board))
            if demo_mode:
                board.chatter.load(demo_model(os.environ))
            app = mount(page.queue(max_size=settings.max_waiting), settings, settings.max_upload)
        if settings.share:
            share(app, listener)
        logger.info_rank0("LLaMA Board is ready at %s", url_of(listener))
        make_process(app).run(sockets=[listener])


def demo_model(variables: Mapping[str, str]) -> dict[str, str]:
    """The keys of the model that a demonstration talks with."""
    keys = {"model_name_or_path": "DEMO_MODEL", "template": "DEMO_TEMPLATE", "infer_backend": "DEMO_BACKEND"}
    return {key: variables[name] for key, name in keys.items() if variables.get(name)}


def read_board_settings(words: Sequence[str]) -> WebSettings:
    """Environment and words of ``webui``.

    Raises:
        ConfigError: There are words that it does not know, or the environment cannot be used.
    """
    unknown = [word for word in words if word != "--share"]
    if unknown:
        raise ConfigError(
            f"webui: takes no {unknown[0]!r}; the page has a field for every key (--share: a public address)"
        )
    share_it = {"GRADIO_SHARE": "1"} if words else {}
    return WebSettings.from_environment({**os.environ, **share_it})


def mount(page: Any, settings: WebSettings, max_upload: int) -> Guard:
    """The web application of a page: guarded, and without what it does not need.

    Args:
        page: ``gradio.Blocks``.
        settings: Of the server.
        max_upload: Largest upload in bytes; 0 = the page takes none.
    """
    gr = require("gradio", "webchat", "'gradio>=6'")
    from fastapi import FastAPI

    # gradio asks matplotlib for its backend around every event; unless one is named, the answer takes two seconds of
    # imports, in the event loop, before the first page is answered.
    os.environ.setdefault("MPLBACKEND", "agg")
    app = gr.mount_gradio_app(
        FastAPI(openapi_url=None),
        page,
        path="/",
        auth=settings.login,
        auth_message=TITLE,
        root_path=settings.root_path or None,
        allowed_paths=[],
        max_file_size=max_upload or settings.max_body,
        show_error=False,  # what went wrong inside is for the log, not for the page
        ssr_mode=False,
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        head=f"<script>{BOARD_SCRIPT.read_text('utf-8')}</script>",
        css=f"{STYLE}\n{BOARD_STYLE.read_text('utf-8')}",
        # gradio's own themes fetch their letters from another host.
        theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
    )
    mounted = app.routes[-1].app
    login = settings.login is not None
    return Guard(app, settings.host, login, settings.max_body, max_upload, mounted.stop_event.set)


def make_process(app: Guard) -> Process:
    """What answers requests until a signal comes. Answers that still grow then are given a moment and ended."""
    return Process(app, app.end, DRAIN_SECONDS, lifespan="auto")


def share(app: Guard, listener: socket.socket) -> None:
    """Open gradio's tunnel to the page and print its address."""
    import secrets

    from gradio.networking import setup_tunnel

    host, port = listener.getsockname()[:2]
    url = setup_tunnel(host, port, secrets.token_urlsafe(32), None, None)
    app.origins.add(urlsplit(url).netloc)
    logger.info_rank0("shared at %s", url)
