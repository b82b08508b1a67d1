# SPDX-License-Identifier: Apache-2.0
"""Without a hub that answers it is said at once that there is none."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from llamafactory.data.sources.dataset_info import DatasetAttr
from llamafactory.data.sources.files import read_rows
from llamafactory.extras import hub
from llamafactory.extras.errors import ConfigError
from llamafactory.hparams.model_args import ModelArguments
from llamafactory.model.paths import resolve_model_path

Answer = Callable[[socket.socket], None]


def _silent(_: socket.socket) -> None:
    time.sleep(20)


def _dripping(client: socket.socket) -> None:
    """Never idle for as long as a client's own limit, and never done."""
    client.sendall(b"HTTP/1.1 200 OK\r\nX: ")
    for _ in range(200):
        time.sleep(0.05)
        client.sendall(b"x")


def _status(status: str) -> Answer:
    return lambda client: client.sendall(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode())


@pytest.fixture
def connections() -> list[str]:
    """A word for each connection that a server of the test was asked for."""
    return []


@pytest.fixture
def serve(connections: list[str]) -> Iterator[Callable[[Answer], str]]:
    """Start a server that gives one answer to all; it accepts every connection."""
    listeners: list[socket.socket] = []

    def accept(listener: socket.socket, answer: Answer) -> None:
        while True:
            try:
                client = listener.accept()[0]
            except OSError:
                return
            connections.append("asked")
            threading.Thread(target=one, args=(client, answer), daemon=True).start()

    def one(client: socket.socket, answer: Answer) -> None:
        with client:
            client.recv(4096)
            with contextlib.suppress(OSError):  # the client has gone
                answer(client)

    def start(answer: Answer) -> str:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)
        threading.Thread(target=accept, args=(listener, answer), daemon=True).start()
        return f"127.0.0.1:{listener.getsockname()[1]}"

    yield start
    for listener in listeners:
        listener.close()


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A process that has not looked yet, with little patience."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    datasets = sys.modules.get("datasets.config")
    if datasets:
        monkeypatch.setattr(datasets, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "_PATIENCE", 0.4)
    hub.look_for_hub.cache_clear()
    hub.look_for_other_hub.cache_clear()
    yield
    hub.look_for_hub.cache_clear()
    hub.look_for_other_hub.cache_clear()


@pytest.mark.parametrize("place", ["model", "data"])
def test_no_hub_is_said_at_once(
    place: str, serve: Callable[[Answer], str], connections: list[str], tiny_llama: Path, tmp_path: Path
) -> None:
    address = serve(_silent) if place == "model" else "127.0.0.1:9"
    words = {"model_name_or_path": tiny_llama, "template": "chatml", "output_dir": tmp_path / "o"} | (
        {"model_name_or_path": "nobody/nothing", "dataset": "identity"}
        if place == "model"
        else {"dataset": "nobody/rows", "dataset_dir": "ONLINE"}
    )
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    environment |= {"HF_ENDPOINT": f"http://{address}", "HF_HOME": str(tmp_path / "hf")}
    done = subprocess.run(
        [sys.executable, "-m", "llamafactory", "preview", *(f"{key}={value}" for key, value in words.items())],
        env=environment, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2], timeout=300,
    )  # fmt: skip
    assert done.returncode == 1 and done.stderr.count(f"no hub at http://{address}") == 1, done.stderr[-2000:]
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert len(connections) == (place == "model")  # the library alone asks again and again, 50 s for one silent file


@pytest.mark.parametrize(
    ("answer", "reason"),
    [(_silent, "no answer in"), (_dripping, "no answer in"), (_status("503 Busy"), "503"), (_status("502 X"), "502")],
    ids=["silent", "dripping", "503", "502"],
)
@pytest.mark.usefixtures("online")
def test_a_hub_that_does_not_answer_is_asked_once(
    answer: Answer,
    reason: str,
    serve: Callable[[Answer], str],
    connections: list[str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", f"http://{serve(answer)}")
    assert not hub.look_for_hub() and not hub.look_for_hub()
    assert len(connections) == 1
    (line,) = [record.getMessage() for record in caplog.records if "no hub" in record.getMessage()]
    assert reason in line and "\n" not in line
    assert constants.HF_HUB_OFFLINE and os.environ["HF_HUB_OFFLINE"] == "1"  # what its library obeys


@pytest.mark.parametrize("status", ["200 OK", "401 Who", "404 Lost", "501 What", "429 Slowly"])
@pytest.mark.usefixtures("online")
def test_whatever_else_it_answers_it_is_there(
    status: str, serve: Callable[[Answer], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", f"http://{serve(_status(status))}")
    assert hub.look_for_hub() and not constants.HF_HUB_OFFLINE


@pytest.mark.usefixtures("online")
def test_nothing_is_pushed_to_a_hub_that_does_not_answer(
    serve: Callable[[Answer], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", f"http://{serve(_silent)}")
    with pytest.raises(ConfigError, match=r"^push_to_hub: nothing can be pushed: the hub does not answer$"):
        hub.require_hub("push_to_hub", "me/it", "hf_good")


@pytest.mark.parametrize(
    ("place", "switch", "variable", "scheme"),
    [
        ("ms", "USE_MODELSCOPE_HUB", "MODELSCOPE_DOMAIN", ""),
        ("om", "USE_OPENMIND_HUB", "OPENMIND_HUB_ENDPOINT", "https://"),
    ],
)
@pytest.mark.usefixtures("online")
def test_the_other_hubs_are_looked_for_too(
    place: str,
    switch: str,
    variable: str,
    scheme: str,
    serve: Callable[[Answer], str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Their packages do not install beside ours; what they are asked for is what their signatures take."""
    asked: list[dict[str, object]] = []

    def snapshot_download(name: str, **keys: object) -> str:
        asked.append(keys)
        raise ValueError("Cannot find an appropriate cached snapshot\nmore")

    package = types.SimpleNamespace(snapshot_download=snapshot_download, MsDataset=None, OmDataset=None)
    for name in ("modelscope", "openmind", "openmind.utils", "openmind.utils.hub"):
        monkeypatch.setitem(sys.modules, name, package)  # type: ignore[arg-type]
    address = serve(_silent)
    monkeypatch.setenv(switch, "1")
    monkeypatch.setenv(variable, scheme + address)
    with pytest.raises(
        ConfigError, match=r"^model_name_or_path: 'org/none' cannot be loaded from the hub: Cannot find"
    ):
        resolve_model_path("org/none", ModelArguments(model_name_or_path="org/none"))
    assert asked[0]["local_files_only"] is True
    with pytest.raises(ConfigError, match=r"^dataset 'x': org/set .* it does not answer$"):
        list(read_rows(DatasetAttr("x", place, "org/set")))  # type: ignore[arg-type]
    assert caplog.text.count(f"no hub at https://{address}") == 1
