# SPDX-License-Identifier: Apache-2.0
"""Images, videos and sound of requests: from the real client to a model that sees, and what is refused on the way."""

from __future__ import annotations

import asyncio
import base64
import io
import runpy
import struct
import sys
import time
import wave
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import httpx
import numpy as np
import pytest
from media_models import build, picture
from PIL import Image
from scripted_engine import ScriptedEngine

from llamafactory.api.settings import MediaPolicy
from llamafactory.chat.hf_engine import HuggingfaceEngine
from llamafactory.data.media.decode import MediaLimits, read_audio, read_image, read_video
from llamafactory.data.messages import Message, Part
from llamafactory.hparams import get_infer_args

from .conftest import MODEL, Running, running

EXAMPLES = Path(__file__).parents[2] / "scripts" / "api_example"


def png(image: Image.Image) -> bytes:
    data = io.BytesIO()
    image.save(data, "PNG")
    return data.getvalue()


def data_url(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def image_part(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def post(server: Running, content: list[dict[str, Any]], **fields: Any) -> httpx.Response:
    body = {"model": MODEL, "messages": [{"role": "user", "content": content}], **fields}
    return httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=60)


@pytest.fixture(scope="module")
def seeing(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A random model that takes images."""
    folder = build("qwen2_vl", tmp_path_factory.mktemp("seeing"), tiny_llama)
    keys = {"template": "qwen2_vl", "infer_dtype": "float32", "do_sample": False, "max_new_tokens": 24}
    engine = HuggingfaceEngine(get_infer_args({"model_name_or_path": str(folder), **keys}))
    with running(engine) as server:
        yield server
    engine.close()


def test_the_real_client_asks_about_an_image(seeing: Running) -> None:
    client = seeing.client()
    answers = {}
    for number, size in ((1, (64, 48)), (150, (160, 120))):
        image = picture(number, size)
        text = {"type": "text", "text": "What is it?"}
        messages: Any = [{"role": "user", "content": [image_part(data_url(png(image))), text]}]
        answer = client.chat.completions.create(model=MODEL, messages=messages)
        parts = (Part("image", image), Part("text", "What is it?"))
        (expected,) = asyncio.run(seeing.server.engine.chat([Message("user", parts)], ()))
        assert answer.choices[0].message.content == expected.text
        assert answer.usage is not None and answer.usage.prompt_tokens == expected.prompt_length
        stream = client.chat.completions.create(model=MODEL, messages=messages, stream=True)
        pieces = [chunk.choices[0].delta.content or "" for chunk in stream]
        assert "".join(pieces) == expected.text and len(pieces) > 2
        answers[number] = expected.text
    assert answers[1] != answers[150]


def bombs() -> dict[str, dict[str, Any]]:
    """Parts whose files are small and cost much, or are no images."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 50_000, 50_000, 1, 0, 0, 0, 0))
    huge = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(10**6))) + chunk(b"IEND", b"")
    return {
        "more than 67108864 pixels": image_part(data_url(huge)),
        "damaged or cut off": image_part(data_url(png(picture(1))[:100])),
        "not an image": image_part(data_url(b"#EXTM3U\nfile:///etc/passwd\n", "image/png")),
    }


@pytest.mark.parametrize("why", bombs())
@pytest.mark.parametrize("stream", [False, True])
def test_bombs_are_answered_400(why: str, stream: bool, seeing: Running) -> None:
    answer = post(seeing, [bombs()[why]], stream=stream)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert why in error["message"] and "\n" not in error["message"] and "/" not in error["message"]
    assert (error["param"], error["code"]) == ("messages", "media_refused")
    assert post(seeing, [{"type": "text", "text": "Who are you?"}]).status_code == 200


def test_an_error_of_a_local_file_tells_no_path(seeing: Running, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no image")
    with running(seeing.server.engine, media=MediaPolicy(folder=str(tmp_path))) as server:
        answer = post(server, [image_part("a.png")])
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "media_refused" and str(tmp_path) not in answer.text


def test_a_kind_the_model_does_not_take_is_refused(seeing: Running) -> None:
    sound = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}
    answer = post(seeing, [sound])
    assert answer.status_code == 400 and "does not take audio" in answer.json()["error"]["message"]


@pytest.fixture
def scripted(seeing: Running) -> ScriptedEngine:
    return ScriptedEngine(seeing.server.engine.template, media=("image", "video", "audio"))


def test_every_kind_reaches_the_engine_as_bytes(scripted: ScriptedEngine) -> None:
    limits = MediaLimits()
    film = io.BytesIO()
    with av.open(film, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=2)
        stream.width, stream.height = 64, 48
        for _ in range(4):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode(None))
    sound = io.BytesIO()
    with wave.open(sound, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(np.full(800, 16384, "<i2").tobytes())
    content = [
        {"type": "text", "text": "All:"},
        image_part(data_url(png(picture(3)))),
        {"type": "video_url", "video_url": {"url": data_url(film.getvalue(), "video/mp4")}},
        {"type": "input_audio", "input_audio": {"data": base64.b64encode(sound.getvalue()).decode(), "format": "wav"}},
        {"type": "audio_url", "audio_url": {"url": data_url(sound.getvalue(), "audio/wav")}},
    ]
    tools = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}]
    with running(scripted) as server:
        for more in ({}, {"tools": tools}):
            assert post(server, content, **more).status_code == 200
    (message,) = scripted.asked[0][0]
    assert [part.type for part in message.parts] == ["text", "image", "video", "audio", "audio"]
    assert np.array_equal(np.asarray(read_image(message.parts[1].value, limits)), np.asarray(picture(3)))
    assert len(read_video(message.parts[2].value, limits).frames) == 4
    for part in message.parts[3:]:
        assert np.array_equal(read_audio(part.value, limits), np.full(800, 0.5, np.float32))


def test_the_number_of_media_is_bounded(scripted: ScriptedEngine) -> None:
    content = [image_part(data_url(b"x"))] * 5
    with running(scripted, media=MediaPolicy(max_parts=4)) as server:
        answer = post(server, content)
    assert answer.status_code == 400 and "more than 4 images" in answer.json()["error"]["message"]
    assert scripted.asked == []


def test_the_work_on_all_media_of_a_request_is_bounded(seeing: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[bytes] = []

    def slow(value: bytes, limits: MediaLimits) -> Image.Image:
        read.append(value)
        time.sleep(0.2)
        return read_image(value, limits)

    engine: Any = seeing.server.engine
    monkeypatch.setattr("llamafactory.data.media.decode.read_image", slow)
    monkeypatch.setattr(engine.encoder, "limits", replace(engine.encoder.limits, decode_seconds=0.5))
    answer = post(seeing, [image_part(data_url(png(picture(1))))] * 60)
    assert answer.status_code == 400 and "more than 0.5 seconds to decode" in answer.json()["error"]["message"]
    assert len(read) < 10


def test_the_example_that_shows_a_picture(
    seeing: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """scripts/api_example/test_image.py prints what the same request is answered with."""
    (tmp_path / "picture.png").write_bytes(png(picture(3, (84, 84))))
    url = data_url(png(picture(3, (84, 84))))
    wanted = post(seeing, [image_part(url), {"type": "text", "text": "What is this?"}])
    monkeypatch.setenv("API_PORT", str(seeing.port))
    monkeypatch.setattr(sys, "argv", ["test_image.py", str(tmp_path / "picture.png")])
    runpy.run_path(str(EXAMPLES / "test_image.py"), run_name="__main__")
    said = capsys.readouterr().out
    assert said == wanted.json()["choices"][0]["message"]["content"] + "\n" and said.strip()
