# SPDX-License-Identifier: Apache-2.0
"""Uploads that cannot succeed are refused before the work; one that fails afterwards loses nothing."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants, hf_api

from llamafactory.export.export import run_export
from llamafactory.extras.errors import ConfigError
from llamafactory.extras.hub import look_for_hub
from tests.damage.world import Outcome
from tests.damage.world import run as run_command

from .conftest import Keys
from .running import train

Run = Callable[..., Outcome]
_POSTS: list[tuple[str, bytes]] = []  # what was asked of the hub


class _Hub(BaseHTTPRequestHandler):
    """Knows the user ``hf_good``, makes every repository, takes no file."""

    def do_GET(self) -> None:
        good = self.headers.get("Authorization") == "Bearer hf_good"
        self.answer(200 if good else 401, {"name": "me", "type": "user", "orgs": [], "auth": {"type": "access_token"}})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.posts.append((self.path, body))  # type: ignore[attr-defined]
        if self.path == "/api/validate-yaml":
            self.answer(200, {"errors": [], "warnings": []})
        elif self.path == "/api/repos/create":
            name = json.loads(body)["name"]
            self.answer(200, {"url": f"http://127.0.0.1:{self.server.server_address[1]}/me/{name}", "name": name})
        else:
            self.answer(403, {"error": "the disk is full"})

    def answer(self, status: int, body: dict[str, object]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    server.posts = _POSTS  # type: ignore[attr-defined]
    _POSTS.clear()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Run]:
    """``run(command, keys, endpoint, token)`` against a hub that the client would learn of at its import."""

    def run_there(command: str, given: dict[str, object], endpoint: str, token: str | None) -> Outcome:
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setattr(hf_api.api, "endpoint", endpoint)
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        monkeypatch.delenv("HF_TOKEN", raising=False)
        if token:
            monkeypatch.setenv("HF_TOKEN", token)
        return run_command(tmp_path, (command, *(f"{key}={value}" for key, value in given.items())))

    yield run_there
    look_for_hub.cache_clear()


def test_offline_is_said_before_the_work(keys: Keys, tiny_llama: Path, tmp_path: Path) -> None:
    given = keys(push_to_hub=True, hub_token="hf_good")
    with pytest.raises(ConfigError, match=r"^push_to_hub: nothing can be pushed while HF_HUB_OFFLINE is set"):
        train(given)
    assert not Path(given["output_dir"]).exists()
    export = {"model_name_or_path": str(tiny_llama), "template": "chatml", "export_dir": str(tmp_path / "out")}
    with pytest.raises(ConfigError, match=r"^export_hub_model_id: nothing can be pushed while HF_HUB_OFFLINE is set"):
        run_export({**export, "export_hub_model_id": "me/it"})
    with pytest.raises(ConfigError, match=r"^export_hub_model_id: nothing can be pushed: .*Repo id"):
        run_export({**export, "export_hub_model_id": "me/it/too/long"})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("endpoint", "token", "words"),
    [
        ("http://127.0.0.1:9", "hf_good", "export_hub_model_id: nothing can be pushed: "),
        ("", "hf_bad", "export_hub_model_id: nothing can be pushed: "),
        ("", None, "export_hub_model_id: needs a token of the hub"),
    ],
    ids=["no network", "wrong token", "no token"],
)
def test_no_hub(
    hub: str, run: Run, tiny_llama: Path, tmp_path: Path, endpoint: str, token: str | None, words: str
) -> None:
    given = {"model_name_or_path": tiny_llama, "template": "chatml", "export_dir": tmp_path / "out"}
    done = run("export", {**given, "export_hub_model_id": "me/it"}, endpoint or hub, token)
    assert done.code == 1 and "Traceback" not in done.errors
    assert done.last.startswith(f"error: {words}")
    assert not (tmp_path / "out").exists()


def test_what_was_written_stays_when_the_push_fails(
    hub: str, run: Run, keys: Keys, tiny_llama: Path, tmp_path: Path
) -> None:
    given = {"model_name_or_path": tiny_llama, "template": "chatml", "export_dir": tmp_path / "out"}
    done = run("export", {**given, "export_hub_model_id": "me/it"}, hub, "hf_good")
    assert done.code == 1 and "Traceback" not in done.errors
    last = done.last
    assert last.startswith(f"error: export_hub_model_id: {tmp_path / 'out'} is written and whole, but could not be")
    assert (tmp_path / "out" / "model.safetensors").is_file()
    training = keys(max_steps=2, save_strategy="steps", save_steps=1, push_to_hub=True, hub_model_id="me/it")
    training["hub_token"] = "hf_good"
    done = run("train", training, hub, None)
    assert done.code == 1 and "Traceback" not in done.errors, done.errors
    last, folder = done.last, training["output_dir"]
    assert last.startswith(f"error: push_to_hub: {folder} is written and whole, but could not be pushed")
    assert (Path(folder) / "adapter_model.safetensors").is_file()
    assert not (Path(folder) / "training_args.bin").exists()
    offered = [json.loads(body)["files"] for path, body in _POSTS if "/preupload/" in path]
    names = {file["path"] for files in offered for file in files}
    assert names >= {"README.md", "adapter_model.safetensors", "adapter_config.json", "tokenizer.json"}
    kept = ("run_manifest.json", "run_config.json", "trainer_state.json", "optimizer.pt", "training_args.bin")
    assert not [name for name in names if Path(name).name in kept or name.startswith("checkpoint")]
    card = next(json.loads(body)["content"] for path, body in reversed(_POSTS) if path == "/api/validate-yaml")
    assert card == (Path(folder) / "README.md").read_text() and "- max_steps: 2" in card
    assert str(tmp_path) not in card and str(tiny_llama) not in card
