# SPDX-License-Identifier: Apache-2.0
"""The page of a random model, or of an engine that says what the test wrote, served in a thread."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

import pytest
from scripted_engine import until

from llamafactory.chat.hf_engine import HuggingfaceEngine
from llamafactory.hparams import InferArgs, get_infer_args
from llamafactory.webui.interface import make_app, make_process, mount, take_address
from llamafactory.webui.serving.settings import WebSettings

from .board import BoardServer, launch_chromium, make_workspace

# Without the extra `webui` there is no page.
collect_ignore_glob = [] if find_spec("gradio") else ["test_*.py"]


@contextmanager
def serving(make: Callable[[WebSettings], Any], **settings: Any) -> Iterator[str]:
    """Serve what ``make`` gives at a free port of this machine, in a thread; gives its address."""
    chosen = WebSettings(port=0, **settings)
    listener = take_address(chosen)
    process = make_process(make(chosen))
    thread = threading.Thread(target=process.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    until(lambda: process.started)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        process.handle_exit(signal.SIGTERM, None)
        thread.join(timeout=30)


def running(engine: Any, args: InferArgs, **settings: Any) -> AbstractContextManager[str]:
    """Serve the page of a model."""
    return serving(lambda chosen: make_app(engine, args, chosen), **settings)


def serve_page(page: Any, **settings: Any) -> AbstractContextManager[str]:
    """Serve a board."""

    def make(chosen: WebSettings) -> Any:
        return mount(page.queue(max_size=chosen.max_waiting), chosen, chosen.max_upload)

    return serving(make, **settings)


@pytest.fixture(scope="session")
def page_args(make_tiny_model: Callable[..., Path]) -> InferArgs:
    folder = make_tiny_model(max_position_embeddings=8192)
    keys = {"template": "qwen", "infer_dtype": "float32", "do_sample": False, "max_new_tokens": 24, "max_batch_size": 4}
    return get_infer_args({"model_name_or_path": str(folder), **keys})


@pytest.fixture(scope="session")
def engine(page_args: InferArgs) -> Iterator[HuggingfaceEngine]:
    """The real engine on a random model, greedy."""
    engine = HuggingfaceEngine(page_args)
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def page(engine: HuggingfaceEngine, page_args: InferArgs) -> Iterator[str]:
    """Address of the page of the real engine."""
    with running(engine, page_args) as url:
        yield url


@pytest.fixture(scope="module")  # its event loop must not outlive the tests that need it
def chromium() -> Iterator[Any]:
    """The browser of the tests of the board."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = launch_chromium(driver)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def board(make_tiny_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[BoardServer]:
    """The board in a workspace with a little data; every test may leave jobs behind, none a setting."""
    model = make_tiny_model(max_position_embeddings=2048)
    server = BoardServer(make_workspace(tmp_path_factory.mktemp("workspace"), model))
    yield server
    server.stop()


@pytest.fixture
def in_workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace of its own with the demo data, as the folder that the test works in."""
    folder = tmp_path / "workspace"
    shutil.copytree(Path(__file__).parents[2] / "data", folder / "data")
    monkeypatch.chdir(folder)
    return folder
