# SPDX-License-Identifier: Apache-2.0
"""The vLLM engine: ``AsyncLLM`` of the package vllm, in processes of its own."""

from __future__ import annotations

import asyncio
import tempfile
import threading
import uuid
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..extras.errors import ConfigError, first_line
from ..extras.logging import get_logger
from ..extras.packages import require
from ..hparams import InferArgs
from ..hparams.inference_args import engine_settings
from ..hparams.model_args import named_adapters
from ..model import resolve_model_path
from ..model.adapter_config import read_adapter_values, require_merging
from ..model.paths import resolve_adapter_path
from ..model.tokenizer import adapter_names, hub_options
from ..model.tokenizer_file import folder_for_engines
from ..model.vllm_adapter import require_for_vllm, why_not_in_vllm
from ..model.vllm_length import vllm_length
from .base_engine import Delta, EngineBase, FinishReason, TokenLogProb, copies
from .sampling import Sampling, get_sampling

if TYPE_CHECKING:
    from ..data.media.decode import Video
    from ..data.media.encoder import MediaEncoder, MediaPrompt
    from ..data.messages import Message

logger = get_logger(__name__)

_MOST_LOG_PROBS = 20  # vLLM's own limit unless vllm_config says otherwise


class VllmEngine(EngineBase):
    """Renders prompts by our template and lets vLLM answer them; streams, adapters by name, schemas.

    Raises:
        ConfigError: vLLM is missing, or it refuses the model or a setting.
    """

    def __init__(self, args: InferArgs) -> None:
        require("vllm", "infer_backend: vllm")
        self._merged = tempfile.TemporaryDirectory(prefix="llamafactory-vllm-")
        args = self._args = merged_first(args, Path(self._merged.name))
        self.load_template(args)
        self._ends = sorted({*self.template.stop_token_ids, self.tokenizer.eos_token_id} - {None})
        self._loras, self._default = lora_requests(args)
        self.adapters = tuple(name for name in self._loras if name != self._default)
        # vLLM lives on the event loop that made it; ours may be called from any.
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="vllm", daemon=True)
        self._thread.start()
        self._llm = asyncio.run_coroutine_threadsafe(self._load(), self._loop).result()
        self.context: int = self._llm.model_config.max_model_len

    async def _load(self) -> Any:
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        settings = engine_arguments(self._args, lora=bool(self._loras))
        if "tokenizer" not in settings:
            settings["tokenizer"] = folder_for_engines(
                self.tokenizer, settings["model"], **hub_options(self._args.model)
            )
        try:
            return AsyncLLM.from_engine_args(AsyncEngineArgs(**settings))
        except (TypeError, ValueError) as error:
            raise ConfigError(f"infer_backend: vllm: {' '.join(str(error).split())[:300]}") from error

    async def _stream(
        self, prompt: Sequence[Message] | str | Sequence[int], tools: Sequence[dict], **overrides: Any
    ) -> AsyncGenerator[Delta, None]:
        """Yield the pieces of all responses as they are made; see :class:`Engine`."""
        sampling = get_sampling(self._args, overrides, self.vocabulary)
        lora = self._lora(sampling.adapter)
        read = await self.read_prompt(prompt, tools, sampling.enable_thinking)
        ids = read.ids
        parameters = sampling_parameters(sampling, sampling.new_tokens(len(ids), self.context), self._ends)
        here = asyncio.get_running_loop()
        queue: asyncio.Queue[Any] = asyncio.Queue()

        async def pump() -> None:
            def put(item: Any) -> None:
                here.call_soon_threadsafe(queue.put_nowait, item)

            try:
                async for output in self._llm.generate(
                    vllm_prompt(read, self.encoder), parameters, uuid.uuid4().hex, lora_request=lora
                ):
                    put(output)
            except Exception as error:  # whatever vLLM says, the caller hears it
                put(ConfigError(first_line(error)) if isinstance(error, ValueError) else error)

        task = asyncio.run_coroutine_threadsafe(pump(), self._loop)
        growing = sampling.sequences
        try:
            while growing:
                output = await queue.get()
                if isinstance(output, Exception):
                    raise output
                for piece in output.outputs:
                    growing -= piece.finish_reason is not None
                    for copy in copies(self._delta(piece, len(ids), sampling), sampling.copies):
                        yield copy
        finally:
            task.cancel()  # vLLM frees the request when its generator ends

    async def get_scores(self, texts: Sequence[str], **overrides: Any) -> list[float]:
        """Reward models are scored by the huggingface engine."""
        raise ConfigError("infer_backend: vllm has no scores of reward models; use huggingface")

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """A vLLM that generates gives no hidden states."""
        raise ConfigError("infer_backend: vllm makes no embeddings beside answers; use huggingface")

    def close(self) -> None:
        """End vLLM's processes; requests still running fail."""
        self._loop.call_soon_threadsafe(self._llm.shutdown)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._merged.cleanup()
        del self._llm  # now: its finalizer needs modules that are gone when the program ends

    def _lora(self, adapter: str | None) -> Any:
        if adapter is None:
            return self._loras.get(self._default)
        if adapter not in self.adapters:
            known = ", ".join(self.adapters) or "none; lora_modules names them"
            raise ConfigError(f"adapter: unknown name {adapter!r}; known: {known}")
        return self._loras[adapter]

    def _delta(self, piece: Any, prompt_tokens: int, sampling: Sampling) -> Delta:
        reason: FinishReason | None = (
            None if piece.finish_reason is None else ("length" if piece.finish_reason == "length" else "stop")
        )
        log_probs: tuple[TokenLogProb, ...] = ()
        if sampling.log_probs is not None and piece.logprobs:
            log_probs = tuple(
                _log_probs(token, step, sampling.log_probs, self._name)
                for token, step in zip(piece.token_ids, piece.logprobs, strict=True)
            )
        return Delta(piece.text, piece.index, len(piece.token_ids), prompt_tokens, reason, log_probs)

    def _name(self, token_id: int) -> str:
        return str(self.tokenizer.decode([token_id], skip_special_tokens=False))


def vllm_prompt(prompt: MediaPrompt, encoder: MediaEncoder | None) -> dict[str, Any]:
    """Return a prompt as vLLM takes it: it expands the placeholders of media itself."""
    if not prompt.objects or encoder is None:
        return {"prompt_token_ids": prompt.ids}
    rate = encoder.limits.audio_sampling_rate
    objects: dict[str, list[Any]] = {
        "audio": [(sound, rate) for sound in prompt.objects.get("audio", ())],
        "image": prompt.objects.get("image", []),
        "video": [_frames(video) for video in prompt.objects.get("video", ())],
    }
    fields: dict[str, Any] = {
        "prompt_token_ids": prompt.short_ids,
        "multi_modal_data": {kind: found for kind, found in objects.items() if found},
    }
    return fields | ({"mm_processor_kwargs": encoder.image_options} if objects["image"] else {})


def _frames(video: Video) -> tuple[Any, dict[str, Any]]:
    """Frames ``[T, height, width, 3]`` and what vLLM wants to know of their times."""
    import numpy

    count = len(video.frames)
    metadata = {
        "fps": video.fps,
        "duration": count / video.fps,
        "total_num_frames": count,
        "frames_indices": list(range(count)),
        "do_sample_frames": False,
    }
    return numpy.stack([numpy.asarray(frame) for frame in video.frames]), metadata


def engine_arguments(args: InferArgs, *, lora: bool) -> dict[str, Any]:
    """Return the keyword arguments of vLLM's ``AsyncEngineArgs``; ``vllm_config`` wins over our keys."""
    import torch

    model, vllm = args.model, args.vllm
    path = resolve_model_path(str(model.model_name_or_path), model)
    arguments: dict[str, Any] = {
        "model": path,
        "trust_remote_code": model.trust_remote_code,
        "download_dir": model.cache_dir,
        "revision": model.model_revision if path == model.model_name_or_path else None,
        "dtype": model.infer_dtype,
        "max_model_len": vllm_length(args),
        "enforce_eager": vllm.vllm_enforce_eager,
        "gpu_memory_utilization": vllm.vllm_gpu_util,
        "tensor_parallel_size": max(1, torch.cuda.device_count()),
        "max_logprobs": _MOST_LOG_PROBS,
        "logprobs_mode": "raw_logprobs",
        # xgrammar, its first choice, forgets what stands beside anyOf, and many keywords.
        "structured_outputs_config": {"backend": "guidance"},
        "disable_log_stats": True,
    }
    if lora:
        arguments |= {"enable_lora": True, "max_lora_rank": vllm.vllm_max_lora_rank}
    return arguments | engine_settings("vllm_config", vllm.vllm_config)


def merged_first(args: InferArgs, folder: Path) -> InferArgs:
    """Merge into ``folder`` what ``adapter_name_or_path`` names, where vLLM does not take it beside its base.

    Returns:
        ``args``, or those of the merged model.

    Raises:
        ConfigError: No weight can hold it; or adapters of ``lora_modules`` need the base that is no longer there.
    """
    names = adapter_names(args.model)
    folders = [resolve_adapter_path(name, args.model) for name in names]
    why = [why_not_in_vllm(read_adapter_values(path), args.vllm.vllm_max_lora_rank) for path in folders]
    if len(names) < 2 and not any(why):
        return args
    for path in folders:
        require_merging(path)
    reason = next((one for one in why if one), "several adapters")
    if args.model.lora_modules:
        raise ConfigError(
            f"lora_modules: vllm does not take {reason}, so adapter_name_or_path is merged into the base, which these "
            "would not fit; leave lora_modules out, or export the merged model and train on that"
        )
    from ..export.export import write_merged

    logger.info_rank0("vllm does not take %s: adapter_name_or_path is merged into a copy of the model first", reason)
    write_merged(args, folder)
    return replace(args, model=replace(args.model, model_name_or_path=str(folder), adapter_name_or_path=None))


def lora_requests(args: InferArgs) -> tuple[dict[str, Any], str]:
    """Return a vLLM request for each adapter, and the name of the one that ``adapter_name_or_path`` asks for always.

    Raises:
        ConfigError: One is of a kind that vLLM does not take.
    """
    from vllm.lora.request import LoRARequest

    default = "adapter_name_or_path"
    always = adapter_names(args.model)
    paths = ({default: always[0]} if always else {}) | named_adapters(args.model.lora_modules)
    found = {}
    for number, (name, path) in enumerate(paths.items(), start=1):
        folder = resolve_adapter_path(path, args.model)
        require_for_vllm(folder, default if name == default else "lora_modules", args.vllm.vllm_max_lora_rank)
        found[name] = LoRARequest(name, number, folder)
    return found, default


def sampling_parameters(sampling: Sampling, limit: int, ends: list[int]) -> Any:
    """Return vLLM's ``SamplingParams``.

    Raises:
        ConfigError: Beam search, which ``AsyncLLM`` does not do.
    """
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

    if sampling.num_beams > 1:
        raise ConfigError(f"num_beams: {sampling.num_beams}: vllm has no beam search; use huggingface")
    schema = sampling.json_schema
    try:
        return SamplingParams(
            n=sampling.sequences,
            temperature=0.0 if sampling.greedy else sampling.temperature,
            top_p=1.0 if sampling.greedy else sampling.top_p,
            top_k=0 if sampling.greedy else sampling.top_k,
            repetition_penalty=sampling.repetition_penalty,
            seed=sampling.seed,
            logit_bias=sampling.logit_bias or None,
            stop=list(sampling.stop),
            stop_token_ids=ends,
            max_tokens=limit,
            logprobs=sampling.log_probs,
            skip_special_tokens=sampling.skip_special_tokens,
            output_kind=RequestOutputKind.DELTA,
            structured_outputs=None if schema is None else StructuredOutputsParams(json=schema or {"type": "object"}),
        )
    except ValueError as error:
        raise ConfigError(first_line(error)) from error


def _log_probs(sampled: int, step: Mapping[int, Any], count: int, name: Callable[[int], str]) -> TokenLogProb:
    """Read one token's log-probabilities; vLLM puts the sampled token beside the likeliest."""
    best = sorted(step.items(), key=lambda item: -item[1].logprob)[:count]
    top = tuple((token, name(token), value.logprob) for token, value in best)
    return TokenLogProb(sampled, name(sampled), step[sampled].logprob, top)
