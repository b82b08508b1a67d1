# SPDX-License-Identifier: Apache-2.0
"""The SGLang engine: starts ``sglang.launch_server`` and talks to its native HTTP interface."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from ..extras.errors import ConfigError
from ..extras.logging import get_logger
from ..extras.parents import ask_to_end_with_parent
from ..hparams import InferArgs
from ..hparams.inference_args import engine_settings
from ..hparams.model_args import named_adapters
from ..model import resolve_model_path
from ..model.tokenizer import hub_options
from ..model.tokenizer_file import folder_for_engines
from .base_engine import Delta, EngineBase, FinishReason, TokenLogProb, copies
from .sampling import Sampling, get_sampling

if TYPE_CHECKING:
    from ..data.media.encoder import MediaPrompt
    from ..data.messages import Message

logger = get_logger(__name__)

START_SECONDS = 300  # loading a large model takes minutes
_DEFAULT = "adapter_name_or_path"  # the adapter that every request uses unless it names another


class SglangEngine(EngineBase):
    """Renders prompts by our template and lets an SGLang server of its own answer them.

    Args:
        args: The configuration.
        command: Makes the server's command line from the configuration and a port.

    Raises:
        ConfigError: SGLang is missing, or its server does not start.
    """

    def __init__(self, args: InferArgs, command: Callable[[InferArgs, int], list[str]] | None = None) -> None:
        self._args = args
        self.load_template(args)
        self._ends = sorted({*self.template.stop_token_ids, self.tokenizer.eos_token_id} - {None})
        self.adapters = tuple(named_adapters(args.model.lora_modules))
        port = _free_port()
        words = (command or server_command)(args, port)
        if "--tokenizer-path" not in words:
            model = resolve_model_path(str(args.model.model_name_or_path), args.model)
            own = folder_for_engines(self.tokenizer, model, **hub_options(args.model))
            words += ["--tokenizer-path", own] if own else []
        self.context = args.sglang.sglang_maxlen
        self._url = f"http://127.0.0.1:{port}"
        # To Linux the parent is the thread that starts a process: one that ends early must not take the server along.
        lasting = threading.current_thread() is threading.main_thread()
        self._server = subprocess.Popen(words, preexec_fn=ask_to_end_with_parent if lasting else None)
        try:
            self._wait_until_ready()
        except BaseException:
            self.close()
            raise

    def _wait_until_ready(self) -> None:
        import httpx  # which sglang requires, and our own packages do not

        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            if self._server.poll() is not None:
                raise ConfigError(f"infer_backend: the sglang server ended with exit code {self._server.returncode}")
            try:
                if httpx.get(f"{self._url}/health", timeout=5).status_code == 200:
                    return
            except httpx.TransportError:  # it does not listen yet
                pass
            time.sleep(0.5)
        raise ConfigError(f"infer_backend: the sglang server was not ready within {START_SECONDS} s")

    async def _stream(
        self, prompt: Sequence[Message] | str | Sequence[int], tools: Sequence[dict], **overrides: Any
    ) -> AsyncGenerator[Delta, None]:
        """Yield the pieces of all responses as they are made; see :class:`Engine`."""
        import httpx

        sampling = get_sampling(self._args, overrides, self.vocabulary)
        read = await self.read_prompt(prompt, tools, sampling.enable_thinking)
        limit = sampling.new_tokens(len(read.ids), self.context)
        prompt_fields = await asyncio.to_thread(sglang_prompt, read, self._args.media.audio_sampling_rate)
        bodies = [prompt_fields | self._body(sampling, limit, index) for index in range(sampling.sequences)]
        queue: asyncio.Queue[Delta | BaseException] = asyncio.Queue()

        async def pump(index: int, body: dict[str, Any]) -> None:
            try:
                async for delta in self._request(index, body):
                    queue.put_nowait(delta)
            except (httpx.HTTPError, ConfigError, RuntimeError) as error:
                queue.put_nowait(error)

        tasks = [asyncio.create_task(pump(index, body)) for index, body in enumerate(bodies)]
        growing = len(tasks)
        try:
            while growing:
                item = await queue.get()
                if isinstance(item, BaseException):
                    raise item
                growing -= item.finish_reason is not None
                for copy in copies(item, sampling.copies):
                    yield copy
        finally:
            for task in tasks:
                task.cancel()  # the server drops a request whose connection ends

    async def _request(self, index: int, body: dict[str, Any]) -> AsyncGenerator[Delta, None]:
        import httpx

        reader = _Reader(index, lambda token: str(self.tokenizer.decode([token])))
        client = httpx.AsyncClient(timeout=httpx.Timeout(None, connect=10))
        async with client, client.stream("POST", f"{self._url}/generate", json=body) as response:
            if response.status_code != 200:
                await response.aread()
                problem = f"sglang: {response.text[:300]}"
                raise ConfigError(problem) if response.status_code == 400 else RuntimeError(problem)
            async for line in response.aiter_lines():
                data = line.removeprefix("data:").strip()
                if not line.startswith("data:") or data == "[DONE]":
                    continue
                yield reader.read(json.loads(data))
        if not reader.finished:
            raise RuntimeError("sglang: the answer broke off")

    @property
    def media(self) -> tuple[str, ...]:
        """Media that can be handed over: its server reads videos from files only."""
        return tuple(kind for kind in super().media if kind != "video")

    def _body(self, sampling: Sampling, limit: int, index: int) -> dict[str, Any]:
        if sampling.num_beams > 1:
            raise ConfigError(f"num_beams: {sampling.num_beams}: sglang has no beam search; use huggingface")
        parameters: dict[str, Any] = {
            "temperature": 0.0 if sampling.greedy else sampling.temperature,
            "top_p": 1.0 if sampling.greedy else sampling.top_p,
            "top_k": -1 if sampling.greedy or not sampling.top_k else sampling.top_k,
            "repetition_penalty": sampling.repetition_penalty,
            "max_new_tokens": limit,
            "stop": list(sampling.stop),
            "stop_token_ids": self._ends,
            "skip_special_tokens": sampling.skip_special_tokens,
        }
        if sampling.seed is not None:
            parameters["sampling_seed"] = sampling.seed + index
        if sampling.logit_bias:
            parameters["logit_bias"] = {str(token): value for token, value in sampling.logit_bias.items()}
        if sampling.json_schema is not None:
            parameters["json_schema"] = json.dumps(sampling.json_schema or {"type": "object"})
        body: dict[str, Any] = {"sampling_params": parameters, "stream": True}
        if sampling.log_probs is not None:
            body |= {"return_logprob": True, "top_logprobs_num": sampling.log_probs}
        adapter = sampling.adapter
        if adapter is not None and adapter not in self.adapters:
            known = ", ".join(self.adapters) or "none; lora_modules names them"
            raise ConfigError(f"adapter: unknown name {adapter!r}; known: {known}")
        if adapter is None and self._args.model.adapter_name_or_path:
            adapter = _DEFAULT
        return body if adapter is None else body | {"lora_path": adapter}

    async def get_scores(self, texts: Sequence[str], **overrides: Any) -> list[float]:
        """Reward models are scored by the huggingface engine."""
        raise ConfigError("infer_backend: sglang has no scores of reward models; use huggingface")

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """A server that generates gives no hidden states."""
        raise ConfigError("infer_backend: sglang makes no embeddings beside answers; use huggingface")

    def close(self) -> None:
        """End the server."""
        self._server.terminate()
        try:
            self._server.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.wait()


def sglang_prompt(prompt: MediaPrompt, sampling_rate: int) -> dict[str, Any]:
    """Return the part of a request that holds the prompt; the server expands the placeholders of media itself.

    Raises:
        ConfigError: It holds a video.
    """
    if "video" in prompt.objects:
        raise ConfigError("messages: a message holds video; with infer_backend sglang only images and sound are taken")
    body: dict[str, Any] = {"input_ids": prompt.short_ids}
    if images := prompt.objects.get("image"):
        body["image_data"] = [f"data:image/png;base64,{_encode(_png(image))}" for image in images]
    if sounds := prompt.objects.get("audio"):
        body["audio_data"] = [f"data:audio/wav;base64,{_encode(_wave(sound, sampling_rate))}" for sound in sounds]
    return body


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _png(image: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def _wave(sound: Any, sampling_rate: int) -> bytes:
    """A WAV file of 32-bit floats, one channel: nothing is rounded."""
    data = sound.astype("<f4").tobytes()
    head = struct.pack("<4sIHHIIHH", b"fmt ", 16, 3, 1, sampling_rate, 4 * sampling_rate, 4, 32)
    body = head + struct.pack("<4sI", b"data", len(data)) + data
    return struct.pack("<4sI4s", b"RIFF", 4 + len(body), b"WAVE") + body


class _Reader:
    """Turns the server's events, which repeat the whole response so far, into deltas."""

    def __init__(self, index: int, name: Callable[[int], str]) -> None:
        self._index = index
        self._name = name
        self._text = ""
        self._tokens = 0
        self.finished = False

    def read(self, event: dict[str, Any]) -> Delta:
        if "error" in event:
            raise RuntimeError(f"sglang: {event['error'].get('message', event['error'])}")
        meta = event["meta_info"]
        text, made = event["text"], meta["completion_tokens"]
        piece, tokens = text[len(self._text) :], made - self._tokens
        log_probs = self._log_probs(meta, self._tokens)
        self._text, self._tokens = text, made
        reason = meta["finish_reason"]
        if reason is not None and reason["type"] == "abort":
            raise RuntimeError(f"sglang: {reason.get('message', 'the request was aborted')}")
        self.finished = reason is not None
        finish: FinishReason | None = None if reason is None else ("length" if reason["type"] == "length" else "stop")
        return Delta(piece, self._index, tokens, meta["prompt_tokens"], finish, log_probs)

    def _log_probs(self, meta: dict[str, Any], start: int) -> tuple[TokenLogProb, ...]:
        sampled = meta.get("output_token_logprobs", [])[start:]
        top = (meta.get("output_top_logprobs") or [])[start:] or [None] * len(sampled)
        return tuple(
            TokenLogProb(token, self._name(token), value, tuple((t, self._name(t), v) for v, t, _ in best or ()))
            for (value, token, _), best in zip(sampled, top, strict=True)
        )


def server_command(args: InferArgs, port: int) -> list[str]:
    """Return the words that start the server; ``sglang_config`` adds ``--key value`` for each of its keys.

    Raises:
        ConfigError: The package is not installed, or several adapters are to be merged, which SGLang does not do.
    """
    from ..model.paths import resolve_adapter_path
    from ..model.tokenizer import adapter_names

    if find_spec("sglang") is None:
        raise ConfigError("infer_backend: sglang: needs the package sglang; pip install sglang")
    model, sglang = args.model, args.sglang
    words = [sys.executable, "-m", "sglang.launch_server", "--host", "127.0.0.1", "--port", str(port)]
    words += ["--model-path", resolve_model_path(str(model.model_name_or_path), model), "--dtype", model.infer_dtype]
    words += ["--context-length", str(sglang.sglang_maxlen), "--mem-fraction-static", str(sglang.sglang_mem_fraction)]
    words += ["--tp-size", str(_devices() if sglang.sglang_tp_size == -1 else sglang.sglang_tp_size)]
    words += ["--grammar-backend", "llguidance"]  # xgrammar forgets what stands beside anyOf, and many keywords
    words += ["--trust-remote-code"] if model.trust_remote_code else []
    always = adapter_names(model)
    if len(always) > 1:
        raise ConfigError("adapter_name_or_path: sglang uses one adapter; merge several by `llamafactory-cli export`")
    paths = ({_DEFAULT: always[0]} if always else {}) | named_adapters(model.lora_modules)
    if paths:
        words += ["--lora-paths", *(f"{name}={resolve_adapter_path(path, model)}" for name, path in paths.items())]
        words += ["--lora-backend", sglang.sglang_lora_backend]
    for key, value in engine_settings("sglang_config", sglang.sglang_config).items():
        if value is False or value is None:
            continue
        words.append(f"--{key.replace('_', '-')}")
        if value is not True:
            words += [str(part) for part in value] if isinstance(value, list) else [str(value)]
    return words


def _devices() -> int:
    import torch

    return max(1, torch.cuda.device_count())


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
