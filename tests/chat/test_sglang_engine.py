# SPDX-License-Identifier: Apache-2.0
"""The protocol of the SGLang engine against a small stand-in server; the real one needs a GPU and is not run here."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest

from llamafactory.chat import sglang_engine
from llamafactory.chat.base_engine import Delta
from llamafactory.chat.sglang_engine import SglangEngine, server_command
from llamafactory.data.messages import Message, Part
from llamafactory.extras.errors import ConfigError
from llamafactory.hparams import get_infer_args

# Answers with what it was asked, as SGLang's /generate does: events that repeat the answer so far.
SERVER = """
import json, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Handler(BaseHTTPRequestHandler):
    asked = 0
    def log_message(self, *words): pass
    def do_GET(self):
        Handler.asked += 1
        self.send_response(200 if self.path == "/health" and Handler.asked > 1 else 503)
        self.end_headers()
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if body["sampling_params"]["temperature"] > 1.9:
            self.send_response(400); self.end_headers(); self.wfile.write(b'{"error": "too hot"}'); return
        self.send_response(200)
        self.end_headers()
        words = [json.dumps(body["sampling_params"]), " and ", str(body.get("lora_path"))]
        if "image_data" in body or "audio_data" in body:
            words[0] = json.dumps({key: body.get(key) for key in ("input_ids", "image_data", "audio_data")})
        for count in range(1, 4):
            if body["sampling_params"]["max_new_tokens"] == 1 and count == 2:
                return
            meta = {"prompt_tokens": len(body["input_ids"]), "completion_tokens": count,
                    "finish_reason": {"type": "length"} if count == 3 else None}
            if body.get("return_logprob"):
                meta["output_token_logprobs"] = [[-0.5 * n, 10 + n, None] for n in range(count)]
                meta["output_top_logprobs"] = [[[-0.1, 20 + n, None]] for n in range(count)]
            event = {"text": "".join(words[:count]), "meta_info": meta}
            self.wfile.write(b"data: " + json.dumps(event).encode() + b"\\n\\n")
        self.wfile.write(b"data: [DONE]\\n\\n")

ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def arguments(folder: Path, **keys: Any) -> Any:
    defaults = {"template": "chatml", "infer_backend": "sglang", "max_new_tokens": 24, "do_sample": False}
    return get_infer_args({"model_name_or_path": str(folder), **defaults, **keys})


@pytest.fixture(scope="module")
def engine(tiny_llama: Path) -> Iterator[SglangEngine]:
    args = arguments(tiny_llama, lora_modules="red=/somewhere")
    made = SglangEngine(args, lambda _, port: [sys.executable, "-c", SERVER, str(port)])
    yield made
    made.close()
    assert made._server.poll() is not None


def ask(engine: SglangEngine, **overrides: Any) -> list[Delta]:
    async def run() -> list[Delta]:
        return [delta async for delta in engine.stream([5, 6, 7], **overrides)]

    return asyncio.run(run())


def test_settings_go_out_and_pieces_come_back(engine: SglangEngine) -> None:
    deltas = ask(engine, do_sample=True, temperature=0.5, top_k=0, seed=4, stop="x", adapter="red", json_schema={})
    settings, adapter = "".join(delta.text for delta in deltas).split(" and ")
    sent = json.loads(settings)
    assert adapter == "red"
    assert (sent["temperature"], sent["top_k"], sent["sampling_seed"], sent["stop"]) == (0.5, -1, 4, ["x"])
    assert sent["max_new_tokens"] == 24 and sent["stop_token_ids"] == [2]
    assert json.loads(sent["json_schema"]) == {"type": "object"}
    assert [delta.tokens for delta in deltas] == [1, 1, 1]
    assert [delta.finish_reason for delta in deltas] == [None, None, "length"]
    assert deltas[0].prompt_tokens == 3


def test_a_bias_goes_out_as_sglang_takes_it(engine: SglangEngine) -> None:
    sent = json.loads("".join(delta.text for delta in ask(engine, logit_bias={7: -100, "8": 2})).split(" and ")[0])
    assert sent["logit_bias"] == {"7": -100.0, "8": 2.0}
    with pytest.raises(ConfigError, match="logit_bias: '-1'"):
        ask(engine, logit_bias={"-1": 1})


def test_log_probabilities_and_several_answers(engine: SglangEngine) -> None:
    deltas = ask(engine, log_probs=1)
    told = [item for delta in deltas for item in delta.log_probs]
    assert [(item.id, item.log_prob) for item in told] == [(10, 0.0), (11, -0.5), (12, -1.0)]
    assert [item.top[0][0] for item in told] == [20, 21, 22]
    several = ask(engine, num_return_sequences=3, do_sample=True, seed=1)
    seeds = [
        json.loads("".join(d.text for d in several if d.index == index).split(" and ")[0])["sampling_seed"]
        for index in range(3)
    ]
    assert seeds == [1, 2, 3]


def test_errors_reach_the_caller(engine: SglangEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="too hot"):
        ask(engine, do_sample=True, temperature=2.0)
    with pytest.raises(RuntimeError, match="broke off"):
        ask(engine, max_new_tokens=1)
    with pytest.raises(ConfigError, match="known: red"):
        ask(engine, adapter="blue")
    with pytest.raises(ConfigError, match="num_beams"):
        ask(engine, num_beams=2)
    dead = [sys.executable, "-c", "raise SystemExit(3)"]
    with pytest.raises(ConfigError, match="exit code 3"):
        SglangEngine(engine._args, lambda args, port: dead)
    monkeypatch.setattr(sglang_engine, "START_SECONDS", 0.5)
    with pytest.raises(ConfigError, match="not ready"):
        SglangEngine(engine._args, lambda args, port: [sys.executable, "-c", "import time; time.sleep(60)"])


def test_the_command_line(tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    args = arguments(
        tiny_llama, sglang_maxlen=99, sglang_tp_size=2, sglang_config={"disable_cuda_graph": True, "max_running": 4}
    )
    with pytest.raises(ConfigError, match="pip install sglang"):
        server_command(args, 1234)
    monkeypatch.setattr(sglang_engine, "find_spec", lambda name: object())
    words = server_command(args, 1234)
    assert words[1:7] == ["-m", "sglang.launch_server", "--host", "127.0.0.1", "--port", "1234"]
    pairs = dict(pairwise(words))
    assert pairs["--model-path"] == str(tiny_llama) and pairs["--context-length"] == "99" and pairs["--tp-size"] == "2"
    assert words[-3:] == ["--disable-cuda-graph", "--max-running", "4"]


@pytest.mark.parametrize("family", ["llava", "qwen2_audio"])
def test_media_go_out_beside_a_prompt_with_one_placeholder_each(family: str, tiny_llama: Path, tmp_path: Path) -> None:
    import io
    from urllib.request import urlopen

    import av
    import numpy as np
    from media_models import build, picture, tone
    from PIL import Image

    folder = build(family, tmp_path, tiny_llama)
    engine = SglangEngine(arguments(folder, template=None), lambda _, port: [sys.executable, "-c", SERVER, str(port)])
    sound = family == "qwen2_audio"
    given: Any = [tone(200), tone(300)] if sound else [picture(1), picture(2)]
    parts = [Part("audio", {"array": item, "sampling_rate": 16000}) if sound else Part("image", item) for item in given]
    try:
        assert engine.media == (("audio",) if sound else ("image",))
        question = [Message("user", (parts[0], Part("text", "and"), parts[1], Part("text", "What?")))]

        async def run() -> list[Delta]:
            return [delta async for delta in engine.stream(question)]

        sent = json.loads("".join(delta.text for delta in asyncio.run(run())).split(" and ")[0])
    finally:
        engine.close()
    assert sent["input_ids"].count(engine.tokenizer.convert_tokens_to_ids("<|AUDIO|>" if sound else "<image>")) == 2
    urls = sent["audio_data" if sound else "image_data"]
    for url, item in zip(urls, given, strict=True):
        with urlopen(url) as answer:
            file = io.BytesIO(answer.read())
        if sound:
            with av.open(file) as container:
                frames = [frame.to_ndarray() for frame in container.decode(audio=0)]
            assert np.array_equal(np.concatenate(frames, axis=1)[0], item)
        else:
            assert Image.open(file).tobytes() == item.tobytes()


def test_the_server_ends_with_a_killed_parent(tiny_llama: Path, tmp_path: Path) -> None:
    """kill -9, so that nobody could end it."""
    (tmp_path / "server.py").write_text(SERVER)
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from llamafactory.chat.sglang_engine import SglangEngine\n"
        "from llamafactory.hparams import get_infer_args\n"
        "args = get_infer_args({'model_name_or_path': sys.argv[1], 'template': 'chatml', 'infer_backend': 'sglang'})\n"
        "engine = SglangEngine(args, lambda _, port: [sys.executable, sys.argv[2], str(port)])\n"
        "print(engine._server.pid, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    words = [sys.executable, "-c", code, str(tiny_llama), str(tmp_path / "server.py")]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, timeout=120)
    assert done.returncode == -signal.SIGKILL
    server, end = int(done.stdout.split()[-1]), time.monotonic() + 20
    while psutil.pid_exists(server) and psutil.Process(server).status() != psutil.STATUS_ZOMBIE:
        if time.monotonic() > end:
            psutil.Process(server).kill()
            pytest.fail("the server lives on")
        time.sleep(0.1)
