# SPDX-License-Identifier: Apache-2.0
"""Images, videos and sound sent to the page: what reaches the engine, and what is refused."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from media_models import build, picture
from scripted_engine import ScriptedEngine

from llamafactory.chat.hf_engine import HuggingfaceEngine
from llamafactory.data.messages import Message, Part
from llamafactory.hparams import get_infer_args
from llamafactory.webui.chatting import handler
from llamafactory.webui.serving import guard

from .conftest import running
from .test_page import connect, follow, join, texts, values

gradio_client = pytest.importorskip("gradio_client")

KINDS = ("image", "video", "audio")


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """One file of each kind."""
    names = {"image": "a.png", "video": "v.mp4", "audio": "s.wav"}
    picture(1).save(tmp_path / "a.png")
    (tmp_path / "v.mp4").write_bytes(b"video")
    (tmp_path / "s.wav").write_bytes(b"sound")
    return {kind: str(tmp_path / name) for kind, name in names.items()}


@pytest.fixture
def seer(make_template: Any, page_args: Any) -> Iterator[tuple[ScriptedEngine, str]]:
    """Engine and address of a page whose model takes everything."""
    engine = ScriptedEngine(make_template("qwen"), media=KINDS)
    with running(engine, page_args) as url:
        yield engine, url


def send(client: Any, question: str, *files: list[str] | None) -> Any:
    sent = [None if some is None else [gradio_client.handle_file(path) for path in some] for some in files]
    return client.predict(*values(question), *sent, api_name="/chat")


def test_files_stand_before_the_question_and_stay_in_the_conversation(seer: Any, files: dict[str, str]) -> None:
    engine, url = seer
    client = connect(url)
    chat, left, error, *_ = send(client, "What?", [files["image"]] * 2, [files["video"]], [files["audio"]])
    assert (left, error) == ("", "")
    assert texts(chat)[0] == ("user", "[image] [image] [video] [audio] What?")
    (message,) = engine.asked[0][0]
    contents = {kind: Path(path).read_bytes() for kind, path in files.items()}
    media = [Part(kind, contents[kind]) for kind in ("image", "image", "video", "audio")]
    assert message == Message("user", (*media, Part("text", "What?")))
    send(client, "And now?", None, None, None)
    assert [len(one.parts) for one in engine.asked[1][0]] == [5, 1, 1]


def test_a_real_model_sees_the_upload(tiny_llama: Path, tmp_path: Path, files: dict[str, str]) -> None:
    folder = build("qwen2_vl", tmp_path / "model", tiny_llama)
    keys = {"template": "qwen2_vl", "infer_dtype": "float32", "do_sample": False, "max_new_tokens": 24}
    args = get_infer_args({"model_name_or_path": str(folder), **keys})
    engine = HuggingfaceEngine(args)
    try:
        with running(engine, args) as url:
            chat, _, error, *_ = send(connect(url), "What?", [files["image"]])
            assert error == ""
            message = Message("user", (Part("image", picture(1)), Part("text", "What?")))
            (expected,) = asyncio.run(engine.chat([message], do_sample=False))
            assert texts(chat)[1][1].strip() == expected.text.strip().replace("<", "&lt;")
            Path(files["image"]).write_bytes(b"no image")
            _, left, error, *_ = send(connect(url), "What?", [files["image"]])
            assert left == "What?" and error.startswith("**Error:** image: not an image") and "/" not in error
    finally:
        engine.close()


def test_a_model_of_text_has_no_boxes_and_takes_no_upload(page: str) -> None:
    config = httpx.get(f"{page}/config").json()
    assert not [one for one in config["components"] if one["type"] == "file"]
    answer = httpx.post(f"{page}/gradio_api/upload", files={"files": ("a.png", b"x")})
    assert answer.status_code == 404


def test_boxes_are_those_of_the_model(make_template: Any, page_args: Any) -> None:
    with running(ScriptedEngine(make_template("qwen"), media=("audio",)), page_args) as url:
        config = httpx.get(f"{url}/config").json()
    boxes = [one["props"] for one in config["components"] if one["type"] == "file"]
    assert [(box["label"], box["file_types"]) for box in boxes] == [("Sound", ["audio"])]


def test_uploads_are_bounded(seer: Any, page_args: Any, monkeypatch: pytest.MonkeyPatch, files: dict[str, str]) -> None:
    engine, url = seer
    assert httpx.post(f"{url}/gradio_api/upload", content=b" " * (32 * 2**20 + 1)).status_code == 413
    assert httpx.post(f"{url}/gradio_api/queue/join", content=b" " * (2**20 + 1)).status_code == 413
    assert httpx.post(f"{url}/gradio_api/upload", headers={"Origin": "http://evil.example"}).status_code == 403
    monkeypatch.setattr(handler, "MOST_FILES", 2)
    client = connect(url)
    assert send(client, "Two", [files["image"]], [files["video"]], None)[2] == ""
    chat, left, error, *_ = send(client, "Three", [files["image"]], None, None)
    assert left == "Three" and error.startswith("**Error:** files: the conversation holds more than 2 files")
    assert len(chat) == 2 and len(engine.asked) == 1


def test_an_upload_needs_the_login(make_template: Any, page_args: Any) -> None:
    engine = ScriptedEngine(make_template("qwen"), media=("image",))
    with running(engine, page_args, login=("ann", "secret")) as url:
        assert httpx.post(f"{url}/gradio_api/upload", files={"files": ("a.png", b"x")}).status_code == 401


def post(url: str, data: list[Any]) -> httpx.Response:
    body = {"data": [None, *data], "fn_index": 0, "session_hash": "x", "event_data": None}
    return httpx.post(f"{url}/gradio_api/queue/join", json=body)


def test_gradio_alone_would_read_any_file(seer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, url = seer  # so the test below can fail
    (tmp_path / "secret.png").write_bytes(b"canary")
    monkeypatch.setattr(guard, "_names_uploads_only", lambda body: True)
    file = {"path": str(tmp_path / "secret.png"), "meta": {"_type": "gradio.FileData"}}
    follow(url, join(url, [*values("Hi"), [file], None, None])[0])
    assert engine.asked[0][0][0].parts[0] == Part("image", b"canary")


def test_only_uploaded_files_are_read(seer: Any, tmp_path: Path) -> None:
    from gradio.utils import get_upload_folder

    engine, url = seer
    (tmp_path / "secret.png").write_bytes(b"canary")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.settimeout(0.3)
        address = f"http://127.0.0.1:{listener.getsockname()[1]}/a.png"
        kind = {"meta": {"_type": "gradio.FileData"}, "orig_name": "a.png"}
        for file in (
            {"path": str(tmp_path / "secret.png")},
            {"path": "/etc/passwd"},
            {"path": address},
            {"path": "a.png", "url": address},
            {"path": "../../etc/passwd"},
        ):
            for sent in ([{**file, **kind}], [file], {**file, **kind}):
                assert post(url, [*values("Hi"), sent, None, None]).status_code == 403
                assert post(url, [*values("Hi", system=sent), None, None, None]).status_code == 403
        with pytest.raises(TimeoutError):
            listener.accept()
    twice = '{"data": [{"path": "/etc/passwd", "path": ' + json.dumps(f"{get_upload_folder()}/x") + "}]}"
    for body in (twice, "[" * 100_000, "{", "\xff"):
        assert httpx.post(f"{url}/gradio_api/queue/join", content=body).status_code == 403
    assert post(url, [*values("Hi"), None, None, None]).status_code == 200 and len(engine.asked) <= 1
    for path in ("file=" + str(tmp_path / "secret.png"), "upload/../file=/etc/passwd", "upload/x", "uploads"):
        assert httpx.get(f"{url}/gradio_api/{path}").status_code == 404
