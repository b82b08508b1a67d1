# SPDX-License-Identifier: Apache-2.0
"""The tab Chat of the board: loading from its fields, what each open page sees of it, and the end of the server."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from scripted_engine import ScriptedEngine

from llamafactory.hparams import InferArgs
from llamafactory.jobs.store import JobStore
from llamafactory.webui import interface
from llamafactory.webui.chatting import chatter as room
from llamafactory.webui.chatting.chatter import Chatter

from .board_client import PageClient
from .conftest import serve_page
from .test_side_by_side import make_adapter


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder of its own."""
    folder = tmp_path_factory.mktemp("workspace")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


@pytest.fixture(scope="module")
def site(workspace: Path) -> Iterator[tuple[str, Chatter]]:
    """A board's address, and what holds its model."""
    page = interface.create_ui()
    with serve_page(page) as url:
        yield url, page.board.chatter
    page.board.close()


@pytest.fixture
def board(site: tuple[str, Chatter]) -> Iterator[tuple[PageClient, Chatter]]:
    """One open page of a board that holds no model."""
    url, chatter = site
    yield opened(url), chatter
    chatter.close()


def opened(url: str) -> PageClient:
    """A page whose chat is seen."""
    page = PageClient(url)
    page.open()
    page.press("tab-infer", "select", "infer-info_box")
    return page


def choose(page: PageClient, folder: Path, **fields: Any) -> None:
    """Fill in what is to be loaded."""
    chosen = {
        "top-model_name": None,
        "top-model_path": str(folder),
        "top-template": "qwen",
        "infer-infer_dtype": "float32",
    }
    for name, value in (chosen | fields).items():
        page.fill(name, value)


def settle(page: PageClient, chatter: Chatter) -> None:
    assert chatter.settle(60)
    page.tick()


def say(page: PageClient, text: str, **controls: Any) -> list[str]:
    """Ask; gives the first column's texts."""
    for name, value in ({"question": text} | controls).items():
        page.fill(name, value)
    page.press("send")
    return ["".join(part["text"] for part in one["content"]) for one in page.values["chat"]]


def shown(page: PageClient, name: str, what: str = "visible") -> Any:
    return page.props[name].get(what)


def test_load_talk_unload(board: Any, tiny_llama: Path) -> None:
    page, chatter = board
    assert "No model is loaded" in page.values["infer-info_box"] and shown(page, "chat-box") is False
    choose(
        page,
        tiny_llama,
        **{"infer-extra_args": '{"max_new_tokens": 17, "temperature": 0.5, "default_system": "Be brief."}'},
    )
    page.press("infer-load_btn")
    assert page.values["infer-info_box"].startswith(f"Loading {tiny_llama.name}") and page.values["infer-told"] == ""
    assert (
        shown(page, "infer-load_btn", "interactive") is False and shown(page, "infer-unload_btn", "interactive") is True
    )
    settle(page, chatter)
    assert page.values["infer-info_box"].startswith(f"{tiny_llama.name} is loaded") and shown(page, "chat-box") is True
    assert [shown(page, name) for name in ("image", "video", "audio", "who")] == [False] * 4
    assert page.values["infer-max_new_tokens"] == 17 and page.values["infer-temperature"] == 0.5
    assert page.values["infer-system"] == "Be brief."
    later = opened(page.url)
    assert shown(later, "chat-box") is True and later.values["infer-max_new_tokens"] == 17
    assert say(page, "Who?")[0] == "Who?" and page.values["error"] == "" and page.values["question"] == ""
    page.press("infer-unload_btn")
    settle(page, chatter)
    assert shown(page, "chat-box") is False and page.values["infer-info_box"].startswith("No model is loaded")
    later.tick()
    assert shown(later, "chat-box") is False
    assert say(later, "Still there?") == [] and later.values["error"] == "**Error:** no model is loaded"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"infer-extra_args": "{"}, "**Error:** extra_args"),
        ({"infer-extra_args": '["a"]'}, "**Error:** extra_args"),
        ({"infer-extra_args": '{"max_new_tokens": "many"}'}, "**Error:** max_new_tokens: "),
        ({"infer-extra_args": '{"trust_remote_code": true}'}, "**Error:** trust_remote_code: "),
        ({"infer-extra_args": '{"offload_folder": "../../away"}'}, "**Error:** offload_folder: "),
        ({"top-template": "no_such"}, "**Error:** template: "),
        ({"infer-keep_adapters": True}, "**Error:** side by side: "),
        ({"infer-infer_backend": "vllm"}, "**Error:** infer_backend: vllm: needs the package vllm"),
    ],
    ids=str,
)
def test_what_is_wrong_is_one_line(board: Any, tiny_llama: Path, fields: dict[str, Any], message: str) -> None:
    page, chatter = board
    choose(page, tiny_llama, **fields)
    page.press("infer-load_btn")
    told = page.values["infer-told"]
    settle(page, chatter)  # some things show only when they are used
    told = told or page.values["infer-info_box"].partition("\n\n")[0]
    assert told.startswith(message) and "\n" not in told and chatter.view.state == "empty"
    assert shown(page, "chat-box") is False


def test_adapters_stay_beside_the_base_for_two_columns(board: Any, tiny_llama: Path, workspace: Path) -> None:
    page, chatter = board
    runs = workspace / "saves" / tiny_llama.name / "lora"
    for seed, name in enumerate(("train_1", "train_2")):
        make_adapter(runs / name, tiny_llama, seed)
    choose(page, tiny_llama, **{"top-checkpoint_path": ["train_1", "train_2"], "infer-keep_adapters": True})
    page.press("infer-load_btn")
    settle(page, chatter)
    assert page.values["infer-told"] == "" and chatter.view.error == "" and shown(page, "who") is True
    assert [name for name, _ in shown(page, "answers", "choices")] == ["(base)", "train_1", "train_2"]
    page.fill("side-by-side", True)
    page.press("side-by-side", "input")
    assert shown(page, "beside") is True and shown(page, "beside", "label") == "train_2"
    columns = say(page, "Tell me of rivers"), page.values["beside"]
    assert len(columns[0]) >= 2 and len(columns[1]) >= 2
    page.press("infer-unload_btn")
    settle(page, chatter)
    choose(page, tiny_llama, **{"top-checkpoint_path": ["train_1"], "infer-keep_adapters": False})
    page.press("infer-load_btn")
    settle(page, chatter)
    assert page.values["infer-info_box"].startswith(f"{tiny_llama.name} + train_1 is loaded")
    assert shown(page, "who") is False and chatter.loaded is not None and chatter.loaded.engine.adapters == ()
    assert chatter.loaded.args.model.adapter_name_or_path == str(runs.relative_to(workspace) / "train_1")


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch, make_template: Any) -> Iterator[threading.Event]:
    """Loading waits for it."""
    opened = threading.Event()

    def load(args: InferArgs) -> Any:
        assert opened.wait(30)
        return ScriptedEngine(make_template("qwen3"), media=("image",))

    monkeypatch.setattr(room, "load_engine", load)
    yield opened
    opened.set()


def test_a_second_load_is_refused_and_every_page_sees_the_first(
    board: Any, tiny_llama: Path, gate: threading.Event
) -> None:
    page, chatter = board
    other = opened(page.url)
    choose(page, tiny_llama)
    page.press("infer-load_btn")
    choose(other, tiny_llama)
    other.press("infer-load_btn")
    assert other.values["infer-told"].startswith(f"**Error:** {tiny_llama.name} is being loaded since ")
    assert other.values["infer-info_box"].startswith(f"Loading {tiny_llama.name}: ")
    assert httpx.get(f"{page.url}/config", timeout=5).status_code == 200, "the page is served meanwhile"
    gate.set()
    settle(page, chatter)
    other.tick()
    for one in (page, other):
        assert [shown(one, name) for name in ("chat-box", "image", "video", "audio")] == [True, True, False, False]
        assert shown(one, "infer-enable_thinking") is True
    other.press("infer-load_btn")
    assert other.values["infer-told"] == f"**Error:** {tiny_llama.name} is loaded; unload it first"


def test_a_job_that_runs_is_told_of_with_what_memory_there_is(board: Any, tiny_llama: Path, workspace: Path) -> None:
    page, chatter = board
    store = JobStore(workspace)
    job = store.submit("train", {"output_dir": "saves/x", "stage": "sft"}, name="mine")
    assert store.begin(job.id)
    choose(page, tiny_llama)
    page.press("infer-load_btn")
    told = page.values["infer-told"]
    assert f"job {job.id} (train mine)" in told and "GiB free" in told
    settle(page, chatter)
    assert page.values["infer-info_box"].startswith(f"{tiny_llama.name} is loaded"), "only a warning"
    assert store.get(job.id).state == "running"
    store.finish(job.id, "done", 0, "", time.time())
    page.press("infer-unload_btn")
    settle(page, chatter)
    page.press("infer-load_btn")
    assert page.values["infer-told"] == ""


def test_a_demonstration_holds_its_own_model(
    tiny_llama: Path, workspace: Path, gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = interface.create_ui(demo_mode=True)
    page.board.chatter.load(interface.demo_model({"DEMO_MODEL": str(tiny_llama), "DEMO_TEMPLATE": "qwen"}))
    gate.set()
    assert page.board.chatter.settle(30)
    with serve_page(page) as url:
        client = opened(url)
        assert shown(client, "chat-box") is True and say(client, "Hi") == ["Hi", "ab"]
        client.press("infer-unload_btn")
        assert client.values["infer-told"].startswith("**Error:** ") and page.board.chatter.view.state == "loaded"
    page.board.close()
    assert page.board.chatter.view.state == "empty"


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["loading", "loaded"])
def test_the_server_s_end_is_the_model_s_end(tiny_llama: Path, tmp_path: Path, moment: str) -> None:
    command = [sys.executable, "-m", "llamafactory", "webui"]
    variables = {**os.environ, "GRADIO_SERVER_PORT": "0"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=tmp_path, env=variables
    ) as server:
        assert server.stdout is not None
        ready = (re.search(r"is ready at (http://\S+)", line) for line in server.stdout)
        found = next((one for one in ready if one), None)
        assert found is not None, "it never was"
        page = opened(found[1])
        choose(page, tiny_llama)
        page.press("infer-load_btn")
        end = time.monotonic() + 120
        while moment == "loaded" and not shown(page, "chat-box") and time.monotonic() < end:
            time.sleep(0.2)
            page.tick()
        server.send_signal(signal.SIGTERM)
        rest = server.stdout.read()
    assert server.returncode == 0 and "Traceback" not in rest and "left behind" not in rest, rest
