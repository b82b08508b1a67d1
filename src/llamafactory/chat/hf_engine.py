# SPDX-License-Identifier: Apache-2.0
"""The engine that every model has: transformers, with continuous batching where the model allows it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any

from transformers import GenerationConfig

from ..data.pairs import separate_pairs
from ..extras.errors import ConfigError
from ..extras.logging import get_logger
from ..hparams import InferArgs
from ..hparams.model_args import named_adapters
from ..hparams.stages import WITHOUT_TEXT, require_text
from ..model import load_model
from ..model.heads import head_for
from ..model.rope import context_length
from ..model.vectors import encode_texts, vector_settings
from .base_engine import Delta, EngineBase, copies
from .continuous_batching import ModelRunner, can_batch, can_join
from .json_constraint import JsonGrammars
from .prompt_length import beginning
from .request import Completion, Outbox, Request
from .sampler import Sampler
from .sampling import Sampling, get_sampling
from .scheduler import Scheduler
from .sequential_decoding import complete_alone
from .text_stream import TextStream
from .weight_layout import lay_out_for_rows

if TYPE_CHECKING:
    from ..data.media.encoder import MediaPrompt
    from ..data.messages import Message

logger = get_logger(__name__)


class HuggingfaceEngine(EngineBase):
    """Loads tokenizer, template, model and named adapters; one thread runs the model for all requests."""

    def __init__(self, args: InferArgs) -> None:
        self._args = args
        self._vectors = vector_settings(args) if args.finetuning.stage == "embedding" else None
        silent = args.finetuning.stage in WITHOUT_TEXT
        self._scores = args.finetuning.stage in ("rm", "reranker")
        self.load_template(args)
        self.model: Any = load_model(self.tokenizer, args, trainable=False, head=head_for(args)).eval()
        lay_out_for_rows(self.model)
        # transformers fills what a call leaves open from here; only our own keys shall decide.
        self.model.generation_config = GenerationConfig()
        self.context = context_length(self.model.config)
        self._batches = args.model.use_kv_cache and not silent and can_batch(self.model)
        self._joins = self._batches and can_join(self.model)
        self.adapters = self._load_adapters()
        self._ends = sorted({*self.template.stop_token_ids, self.tokenizer.eos_token_id} - {None})
        self._grammars = JsonGrammars(self.tokenizer, self._ends)
        self._scheduler = Scheduler(ModelRunner(self.model, self.adapters), args.model.max_batch_size)
        if not self._batches and not silent:
            logger.info_rank0("Requests are answered one at a time: this model cannot share a forward pass")

    def _load_adapters(self) -> tuple[str, ...]:
        named = named_adapters(self._args.model.lora_modules)
        if named:
            from ..model.adapters import load_named_adapters
            from ..model.loftq import require_common_base
            from ..model.paths import resolve_adapter_path
            from ..model.quantizers.record import require_same_base

            folders = {n: resolve_adapter_path(path, self._args.model, "lora_modules") for n, path in named.items()}
            for folder in folders.values():
                require_same_base(folder, self._args.quantization, "lora_modules")
                require_common_base(folder, "lora_modules")
            self.model = load_named_adapters(self.model, folders)
        return tuple(named)

    async def _stream(
        self, prompt: Sequence[Message] | str | Sequence[int], tools: Sequence[dict], **overrides: Any
    ) -> AsyncGenerator[Delta, None]:
        """Yield the pieces of all responses as they are made; see :class:`Engine`."""
        sampling = self._sampling(overrides)
        read = await self.read_prompt(prompt, tools, sampling.enable_thinking)
        schema = sampling.json_schema
        grammar = None if schema is None else await self.run_tokenizing(partial(self._grammars.check, schema))
        request = self._prepare(read, sampling, grammar)
        self._start(request)
        growing = len(request.completions)
        try:
            while growing:
                mail = await request.mailbox.queue.get()
                if isinstance(mail, BaseException):
                    raise mail
                for delta in mail:
                    growing -= delta.finish_reason is not None
                    for copy in copies(delta, sampling.copies):
                        yield copy
        finally:
            self._scheduler.cancel(request)

    async def get_scores(self, texts: Sequence[str], **overrides: Any) -> list[float]:
        """Score whole texts with the reward model.

        Raises:
            ConfigError: The model loaded is none.
        """
        from ..model.reward import score_texts

        if not self._scores:
            raise ConfigError(f"stage: {self._args.finetuning.stage} loads no reward model; scores need stage: rm")
        _refuse_media(texts, "scores")
        for name in overrides.keys() - {"max_length"}:
            raise ConfigError(f"{name}: unknown option of scoring; known: max_length")
        limit = overrides.get("max_length") or self.context
        if self._args.finetuning.stage == "reranker":
            separate_pairs(self.tokenizer)
        elif limit is not None:  # what is cut off is not tokenized first
            texts = await self.run_tokenizing(lambda: [beginning(self.tokenizer, text, limit) for text in texts])
        job = partial(score_texts, self.model, self.tokenizer, list(texts), limit)
        return await asyncio.wrap_future(self._scheduler.run_alone(job))

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """Return one vector of unit length for each text."""
        from .embedding import embed_texts

        _refuse_media(texts, "embeddings")
        await self.refuse_long_texts(texts)
        if self._vectors is not None:
            for number, text in enumerate(texts, start=1):
                if not text.strip():
                    raise ConfigError(f"text {number} is empty")
            pooled = partial(encode_texts, self.model, self.tokenizer, list(texts), self._vectors.pooling)
            vectors: list[list[float]] = (await asyncio.wrap_future(self._scheduler.run_alone(pooled))).tolist()
            return vectors
        job = partial(embed_texts, self.model, self.tokenizer, list(texts), self.context)
        return await asyncio.wrap_future(self._scheduler.run_alone(job))

    def close(self) -> None:
        """End the thread; requests still running fail."""
        self._scheduler.close()

    @property
    def vocabulary(self) -> int:
        """Tokens that both the tokenizer and the model know."""
        return min(super().vocabulary, self.model.config.get_text_config().vocab_size)

    @property
    def load(self) -> tuple[int, int]:
        """How many completions grow, and how many requests wait."""
        return self._scheduler.load

    def _sampling(self, overrides: dict[str, Any]) -> Sampling:
        require_text(self._args.finetuning.stage)
        sampling = get_sampling(self._args, overrides, self.vocabulary)
        if sampling.adapter is not None and sampling.adapter not in self.adapters:
            known = ", ".join(self.adapters) or "none; lora_modules names them"
            raise ConfigError(f"adapter: unknown name {sampling.adapter!r}; known: {known}")
        most = self._args.model.max_batch_size
        if sampling.sequences > most:
            raise ConfigError(f"num_return_sequences: {sampling.sequences} is more than max_batch_size {most}")
        return sampling

    def _prepare(self, prompt: MediaPrompt, sampling: Sampling, grammar: str | None) -> Request:
        ids = prompt.ids
        if prompt.inputs and sampling.num_beams > 1:
            raise ConfigError(f"num_beams: {sampling.num_beams} cannot be combined with media")
        limit = sampling.new_tokens(len(ids), self.context)
        request = Request(ids, sampling, limit, frozenset(self._ends), prompt.inputs)
        seed = random.getrandbits(64) if sampling.seed is None else sampling.seed
        for index in range(sampling.sequences):
            constraint = None if grammar is None else self._grammars.constrain(grammar)
            sampler = Sampler(sampling, random.Random(f"{seed}/{index}"), ids, constraint)
            stream = TextStream(self.tokenizer, sampling.stop, sampling.skip_special_tokens)
            request.completions.append(Completion(request, index, sampler, stream))
        return request

    def _start(self, request: Request) -> None:
        if self._batches and request.sampling.num_beams == 1 and (self._joins or not request.inputs):
            self._scheduler.submit(request)
            return
        pad = self.tokenizer.pad_token_id
        job = partial(complete_alone, self.model, request, pad, self._args.model.use_kv_cache)
        future = self._scheduler.run_alone(job, request.adapter, request)

        def report(done: Future[None]) -> None:
            error = None if done.cancelled() else done.exception()
            if error is not None:
                Outbox().fail(request.mailbox, error)

        future.add_done_callback(report)


def _refuse_media(texts: Sequence[Any], what: str) -> None:
    if not all(isinstance(part, str) for text in texts for part in (text if isinstance(text, tuple) else (text,))):
        raise ConfigError(f"{what} are of texts; images, videos and sound have none here")
