# SPDX-License-Identifier: Apache-2.0
"""The engine that every model has: ``model.generate`` of transformers, one request at a time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList

from ..data.template import get_template
from ..data.thinking import settle_thinking
from ..extras.errors import UsageError
from ..hparams import InferArgs
from ..model import generation_attention, load_model, load_tokenizer
from .base_engine import Response
from .sampling import Sampling, get_sampling
from .text_stream import TextStream

if TYPE_CHECKING:
    from ..data.messages import Message


@dataclass(frozen=True)
class Request:
    """A rendered conversation and how to answer it."""

    prompt: list[int]
    sampling: Sampling
    new_tokens: int


class Answer:
    """One answer as it grows: text, tokens so far, and whether it is finished."""

    def __init__(self, stream: TextStream, ends: set[int]) -> None:
        self._stream = stream
        self._ends = ends
        self.text = ""
        self.length = 0
        self.done = False

    def take(self, token_id: int) -> str:
        """Add one token unless finished; return the text that became certain."""
        if self.done:
            return ""
        self.length += 1
        piece = self._stream.push(token_id)
        self.done = token_id in self._ends or self._stream.stopped
        self.text += piece
        return piece

    def finish(self) -> str:
        """Return the text that was still held back."""
        piece = self._stream.finish()
        self.text += piece
        return piece


class AnswerWatch(StoppingCriteria):
    """Feeds each new token to its answer and tells ``generate`` which rows are finished.

    Args:
        answers: One for each row; ``None`` when rows change places while they grow (beams).
        cancelled: Set by the consumer who wants no more; generation ends after the token being made.
        emit: Called with each new piece of text of the first answer.
    """

    def __init__(self, answers: list[Answer] | None, cancelled: threading.Event, emit: Callable[[str], None]) -> None:
        self._answers = answers
        self._cancelled = cancelled
        self._emit = emit

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        """Read the newest token of ``input_ids [rows, tokens]``; return ``[rows]`` finished."""
        done = torch.full((input_ids.shape[0],), self._cancelled.is_set())
        if self._answers is not None:
            pieces = [
                answer.take(token_id) for answer, token_id in zip(self._answers, input_ids[:, -1].tolist(), strict=True)
            ]
            if pieces[0]:
                self._emit(pieces[0])
            done |= torch.tensor([answer.done for answer in self._answers])
        return done.to(input_ids.device)


class HuggingfaceEngine:
    """Loads tokenizer, template and model (adapters applied) and answers with ``model.generate``."""

    def __init__(self, args: InferArgs) -> None:
        self._args = args
        self.tokenizer = load_tokenizer(args.model)
        self.template = get_template(self.tokenizer, settle_thinking(args.data))
        self.model = load_model(self.tokenizer, args, trainable=False).eval()
        # transformers fills what a call leaves open from here; only our own keys shall decide.
        self.model.generation_config = GenerationConfig()
        self._ends = sorted({*self.template.stop_token_ids, self.tokenizer.eos_token_id} - {None})
        self._context = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        # The model, and the random generator that `seed` sets, serve one request at a time.
        self._busy = threading.Lock()

    async def chat(self, messages: Sequence[Message], tools: Sequence[dict] = (), **overrides: Any) -> list[Response]:
        """Answer a conversation; see :class:`Engine` for the overrides."""
        request = self._prepare(messages, tools, overrides)
        cancelled = threading.Event()
        try:
            return await asyncio.to_thread(self._answer, request, cancelled, lambda text: None)
        finally:
            cancelled.set()

    async def stream_chat(
        self, messages: Sequence[Message], tools: Sequence[dict] = (), **overrides: Any
    ) -> AsyncGenerator[str, None]:
        """Yield one answer in pieces. With beams it comes whole: no beam is certain before the end."""
        request = self._prepare(messages, tools, {**overrides, "num_return_sequences": 1})
        loop = asyncio.get_running_loop()
        pieces: asyncio.Queue[str | None] = asyncio.Queue()
        cancelled = threading.Event()

        def emit(text: str) -> None:
            loop.call_soon_threadsafe(pieces.put_nowait, text)

        work = asyncio.ensure_future(asyncio.to_thread(self._answer, request, cancelled, emit))
        work.add_done_callback(lambda _: pieces.put_nowait(None))
        try:
            while (text := await pieces.get()) is not None:
                yield text
        finally:
            cancelled.set()
            await work  # raises what went wrong in the thread

    async def get_scores(self, texts: Sequence[str], **overrides: Any) -> list[float]:
        """Reward models are not built yet."""
        raise UsageError("get_scores: reward models are not built yet")

    def _prepare(self, messages: Sequence[Message], tools: Sequence[dict], overrides: dict[str, Any]) -> Request:
        sampling = get_sampling(self._args, overrides)
        prompt = self.template.encode_prompt(messages, tools=tools, enable_thinking=sampling.enable_thinking)
        return Request(prompt, sampling, sampling.new_tokens(len(prompt), self._context))

    def _answer(self, request: Request, cancelled: threading.Event, emit: Callable[[str], None]) -> list[Response]:
        """Generate in the calling thread; ``emit`` gets the text of the first answer in pieces."""
        sampling = request.sampling
        answers = [
            Answer(TextStream(self.tokenizer, sampling.stop, sampling.skip_special_tokens), set(self._ends))
            for _ in range(sampling.num_return_sequences)
        ]
        beams = sampling.num_beams > 1
        rows = self._generate(request, AnswerWatch(None if beams else answers, cancelled, emit))
        if beams:
            for answer, ids in zip(answers, rows, strict=True):
                for token_id in ids:
                    answer.take(token_id)
            emit(answers[0].text)
        for answer in answers:
            held = answer.finish()
            if held and answer is answers[0]:
                emit(held)
        return [
            Response(answer.text, answer.length, len(request.prompt), "stop" if answer.done else "length")
            for answer in answers
        ]

    @torch.inference_mode()
    def _generate(self, request: Request, criterion: StoppingCriteria) -> list[list[int]]:
        """Return the new ids of each row."""
        with self._busy, generation_attention(self.model):
            if request.sampling.seed is not None:
                torch.manual_seed(request.sampling.seed)
            input_ids = torch.tensor([request.prompt], device=self.model.device)
            output = self.model.generate(
                input_ids=input_ids,
                attention_mask=torch.ones_like(input_ids),
                generation_config=self._generation_config(request),
                stopping_criteria=StoppingCriteriaList([criterion]),
            )
        return output[:, len(request.prompt) :].tolist()

    def _generation_config(self, request: Request) -> GenerationConfig:
        sampling = request.sampling
        choice: dict[str, Any] = {"do_sample": False}
        if not sampling.greedy:
            choice = {
                "do_sample": True,
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "top_k": sampling.top_k,
            }
        if sampling.num_beams > 1:
            choice["length_penalty"] = sampling.length_penalty
        return GenerationConfig(
            **choice,
            num_beams=sampling.num_beams,
            num_return_sequences=sampling.num_return_sequences,
            repetition_penalty=sampling.repetition_penalty,
            max_new_tokens=request.new_tokens,
            eos_token_id=self._ends,
            pad_token_id=self.tokenizer.pad_token_id,
            use_cache=self._args.model.use_kv_cache,
        )
