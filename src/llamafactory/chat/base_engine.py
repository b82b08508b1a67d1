# SPDX-License-Identifier: Apache-2.0
"""What every engine offers, whatever runs underneath."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

from .. import plugins
from ..data.formats.media import with_markers
from ..data.media.encoder import MediaPrompt
from ..extras.errors import ConfigError
from ..extras.logging import get_logger
from ..hparams.stages import WITHOUT_TEXT
from .json_check import check, validator
from .prompt_length import beginning, characters, is_ids, is_short

if TYPE_CHECKING:
    from ..data.media.encoder import MediaEncoder
    from ..data.messages import Message
    from ..data.template.base import Template
    from ..hparams import InferArgs

logger = get_logger(__name__)

FinishReason = Literal["stop", "length"]
T = TypeVar("T")


@dataclass(frozen=True)
class TokenLogProb:
    """One generated token with its natural-log probability under the untouched distribution of the model."""

    id: int
    token: str
    log_prob: float
    top: tuple[tuple[int, str, float], ...] = ()  # (id, token, log_prob) of the likeliest tokens, best first


@dataclass(frozen=True)
class Delta:
    """The next piece of one response.

    Attributes:
        text: New text; may be empty (half a character, a held-back stop word).
        index: Which of the ``num_return_sequences`` responses it belongs to.
        tokens: How many tokens were made since the last delta of this response, the stop token included.
        prompt_tokens: Tokens of the rendered prompt.
        finish_reason: Set on the last delta of a response, and only there.
        log_probs: The tokens of this delta, when ``log_probs`` was given.
    """

    text: str
    index: int = 0
    tokens: int = 0
    prompt_tokens: int = 0
    finish_reason: FinishReason | None = None
    log_probs: tuple[TokenLogProb, ...] = ()


@dataclass(frozen=True)
class Response:
    """One response."""

    text: str
    response_length: int  # tokens generated, the stop token included
    prompt_length: int  # tokens of the rendered conversation
    finish_reason: FinishReason
    log_probs: tuple[TokenLogProb, ...] = ()

    @property
    def response_text(self) -> str:
        """``text`` by the name that scripts written for LLaMA-Factory read."""
        return self.text


class Engine(Protocol):
    """A loaded model that answers conversations. Built as ``Engine(args: InferArgs)``.

    A prompt is a conversation (rendered by the template), a text, or token ids (both taken as they are).

    Overrides of a call, all optional: ``do_sample``, ``temperature``, ``top_p``, ``top_k``, ``num_beams``,
    ``num_return_sequences``, ``repetition_penalty``, ``length_penalty``, ``max_new_tokens``, ``max_length``,
    ``skip_special_tokens``, ``seed``, ``stop`` (a string or several), ``enable_thinking``, ``log_probs`` (how many
    likeliest tokens to report beside the sampled one; ``None`` = none at all), ``json_schema`` (the response is JSON
    that obeys it; ``{}`` = any object; a whole one that does not is a ``ModelFault``), ``adapter`` (a name from
    ``adapters``) and ``logit_bias`` (token id to a number from -100 to 100 that is added to its logit; ``log_probs``
    stay those of the model). What is not given comes from the configuration. An unknown one, or a prompt that does not
    fit the model, is a ``ConfigError``.
    """

    template: Template
    adapters: tuple[str, ...]  # names that ``adapter`` may take
    media: tuple[str, ...]  # media that the model takes, such as ("image",); () for a model of text

    def stream(
        self, prompt: Sequence[Message] | str | Sequence[int], tools: Sequence[dict] = (), **overrides: Any
    ) -> AsyncGenerator[Delta, None]:
        """Yield the pieces of all responses as they are made. Closing the iterator frees what the request held."""
        ...

    async def chat(self, messages: Sequence[Message], tools: Sequence[dict], **overrides: Any) -> list[Response]:
        """Answer; ``num_return_sequences`` responses."""
        ...

    def stream_chat(
        self, messages: Sequence[Message], tools: Sequence[dict], **overrides: Any
    ) -> AsyncGenerator[str, None]:
        """Yield the text of one response in pieces. Closing the iterator ends the generation."""
        ...

    async def get_scores(self, texts: Sequence[str], **overrides: Any) -> list[float]:
        """Score whole texts with a reward model."""
        ...

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """Return one vector of unit length for each text: the mean of the last hidden states over its tokens."""
        ...

    def refuse_long(self, prompt: Sequence[Message] | str | Sequence[int], tools: Sequence[dict] = ()) -> None:
        """Refuse what no tokenizing could bring into the context (``ConfigError``); costs nothing."""
        ...

    async def count_tokens(self, texts: Sequence[str], limit: int | None = None) -> list[int]:
        """Return how many tokens each text has, at most ``limit``, or as many as the model takes."""
        ...

    def close(self) -> None:
        """End the worker thread or process. Requests still running fail."""
        ...


def load_engine(args: InferArgs) -> Engine:
    """Load the model into the engine that ``infer_backend`` names."""
    engine: Engine = plugins.resolve("engines", args.model.infer_backend)(args)
    return engine


class EngineBase:
    """What engines share: everything that can be said by ``stream``."""

    tokenizer: Any
    template: Template
    encoder: MediaEncoder | None = None  # of a model that takes media
    context: int | None = None  # most tokens of prompt and response, where that is known

    @property
    def media(self) -> tuple[str, ...]:
        """Media that the model takes."""
        return () if self.encoder is None else self.encoder.kinds

    @property
    def vocabulary(self) -> int:
        """Tokens that the model knows: their ids are smaller."""
        return len(self.template.tokenizer)

    def load_template(self, args: InferArgs) -> None:
        """Load the tokenizer, the template, and what encodes media where the model takes some."""
        from ..data.template.thinking import resolve_thinking
        from ..data.template_loader import get_template
        from ..model import load_processor, load_tokenizer

        self.tokenizer = load_tokenizer(args.model)
        processor = None if args.finetuning.stage in WITHOUT_TEXT else load_processor(args.model, self.tokenizer)
        self.template = get_template(self.tokenizer, resolve_thinking(args.data))
        if processor is None:
            return
        from ..data.media.decode import MediaLimits
        from ..data.media.encoder import MediaEncoder

        try:
            family = self.template.media_family(processor)
        except ConfigError as error:
            logger.warning_rank0("Only text is taken, no media: %s", error)
            return
        self.encoder = MediaEncoder(processor, family, MediaLimits.of(args.media))
        if self.media:
            logger.info_rank0("Taken beside text: %s", ", ".join(self.media))

    async def read_prompt(
        self, prompt: Sequence[Message] | str | Sequence[int], tools: Sequence[dict], enable_thinking: bool | None
    ) -> MediaPrompt:
        """Return the tokens of a prompt, and its media; other requests go on meanwhile.

        Raises:
            ConfigError: It has no tokens, or some that the tokenizer does not know, or a medium that cannot be used, or
                it is certain to be too long.
        """
        self.refuse_long(prompt, tools)
        if not is_short(prompt, tools):
            await self.run_tokenizing(partial(self._refuse_longer, prompt, tools, enable_thinking))  # type: ignore[arg-type]
        if isinstance(prompt, str) or all(isinstance(item, int) or is_text(item) for item in prompt):
            ids = await self.run_tokenizing(partial(self.prompt_ids, prompt, tools, enable_thinking))
            return MediaPrompt(ids, {}, ids, {})
        if self.encoder is None:
            raise ConfigError("messages: images, videos and sound are not taken; this model is for text")
        encode = self.template.encode_media_prompt
        return await asyncio.to_thread(encode, prompt, self.encoder, tools, enable_thinking)  # type: ignore[arg-type]

    @cached_property
    def _tokenizing(self) -> ThreadPoolExecutor:
        """One thread: long prompts stop neither the loop of a server nor each other's settings of the tokenizer."""
        return ThreadPoolExecutor(1, thread_name_prefix="tokenize")

    @cached_property
    def _longest_token(self) -> int:
        """Characters of the longest token; no token stands for more of a text."""
        return max(map(len, self.template.tokenizer.get_vocab()))

    def refuse_long(self, prompt: Sequence[Message] | str | Sequence[int], tools: Sequence[dict] = ()) -> None:
        """Refuse by its length alone what no tokenizing could bring into the context: that could take minutes."""
        if self.context is None:
            return
        if is_ids(prompt):
            if len(prompt) >= self.context:
                raise ConfigError(f"the prompt has {len(prompt)} tokens, the model takes fewer than {self.context}")
            return
        length = characters(prompt, tools)  # type: ignore[arg-type]
        if length > self.context * self._longest_token:
            what = "text" if isinstance(prompt, str) else "conversation"
            raise ConfigError(
                f"the {what} has {length} characters, far more than the {self.context} tokens the model takes"
            )

    def _refuse_longer(
        self, prompt: Sequence[Message] | str, tools: Sequence[dict], enable_thinking: bool | None
    ) -> None:
        """Refuse what is too long as soon as enough of it was tokenized to say so."""
        if self.context is None:
            return
        if isinstance(prompt, str):
            text, what = prompt, "text"
        else:
            flags = {} if enable_thinking is None else {"enable_thinking": enable_thinking}
            text, what = self.template.render(with_markers(prompt), tools, **flags), "conversation"
        if len(beginning(self.template.tokenizer, text, self.context)) < len(text):
            raise ConfigError(
                f"the {what} has {len(text)} characters, more than make the {self.context} tokens the model takes"
            )

    async def refuse_long_texts(self, texts: Sequence[str]) -> None:
        """Refuse texts that do not fit, each for itself; tokens are counted only as far as that needs."""
        for text in texts:
            self.refuse_long(text)

        def refuse() -> None:
            for text in texts:
                self._refuse_longer(text, (), None)

        await self.run_tokenizing(refuse)

    async def run_tokenizing(self, job: Callable[[], T]) -> T:
        """Run what tokenizes, in the thread for that."""
        return await asyncio.get_running_loop().run_in_executor(self._tokenizing, job)

    async def count_tokens(self, texts: Sequence[str], limit: int | None = None) -> list[int]:
        """Return how many tokens each text has, at most ``limit``, or as many as the model takes."""
        tokenizer, limit = self.template.tokenizer, limit or self.context

        def count(text: str) -> int:
            if limit is None:
                return len(tokenizer(text)["input_ids"])
            return min(limit, len(tokenizer(beginning(tokenizer, text, limit))["input_ids"]))

        return await self.run_tokenizing(lambda: [count(text) for text in texts])

    def prompt_ids(
        self, prompt: Sequence[Message] | str | Sequence[int], tools: Sequence[dict], enable_thinking: bool | None
    ) -> list[int]:
        """Return the tokens of a prompt: a conversation, a text, or the tokens themselves.

        Raises:
            ConfigError: It has no tokens, or some that the tokenizer does not know.
        """
        tokenizer = self.template.tokenizer
        if isinstance(prompt, str):
            ids = list(tokenizer(prompt)["input_ids"])
        elif prompt and isinstance(prompt[0], int):
            ids = list(prompt)
            strange = next((token for token in ids if not 0 <= token < self.vocabulary), None)
            if strange is not None:
                raise ConfigError(f"prompt: {strange} is not one of the {self.vocabulary} tokens of this model")
        else:
            ids = self.template.encode_prompt(prompt, tools=tools, enable_thinking=enable_thinking)  # type: ignore[arg-type]
        if not ids:
            raise ConfigError("prompt: it has no tokens, and a model can only go on from some")
        return ids

    def stream(
        self, prompt: Sequence[Message] | str | Sequence[int], tools: Sequence[dict] = (), **overrides: Any
    ) -> AsyncGenerator[Delta, None]:
        """Yield the pieces of all responses as they are made, what shall obey a schema checked; see :class:`Engine`."""
        schema = overrides.get("json_schema")
        wanted = None if schema is None else validator(schema)
        deltas = self._stream(prompt, tools, **overrides)
        return deltas if wanted is None else _checked(deltas, wanted)

    def _stream(
        self, prompt: Sequence[Message] | str | Sequence[int], tools: Sequence[dict], **overrides: Any
    ) -> AsyncGenerator[Delta, None]:
        """Yield the pieces; an engine's own part of :meth:`stream`."""
        raise NotImplementedError

    async def chat(self, messages: Sequence[Message], tools: Sequence[dict] = (), **overrides: Any) -> list[Response]:
        """Answer a conversation; see :class:`Engine` for the overrides."""
        responses: dict[int, list[Delta]] = {}
        async with aclosing(self.stream(messages, tools, **overrides)) as deltas:
            async for delta in deltas:
                responses.setdefault(delta.index, []).append(delta)
        return [_join(responses[index]) for index in sorted(responses)]

    async def stream_chat(
        self, messages: Sequence[Message], tools: Sequence[dict] = (), **overrides: Any
    ) -> AsyncGenerator[str, None]:
        """Yield one response in pieces. With beams it comes whole: no beam is certain before the end."""
        async with aclosing(self.stream(messages, tools, **{**overrides, "num_return_sequences": 1})) as deltas:
            async for delta in deltas:
                if delta.text:
                    yield delta.text


def copies(delta: Delta, count: int) -> Iterator[Delta]:
    """The delta, for each of so many responses that are one and the same."""
    return (replace(delta, index=index) if index else delta for index in range(count)) if count > 1 else iter((delta,))


def is_text(message: Message) -> bool:
    """Whether a message holds no media."""
    return all(part.type == "text" for part in message.parts)


def _join(deltas: list[Delta]) -> Response:
    last = deltas[-1]
    assert last.finish_reason is not None, "an engine's last delta says why the answer ended"
    return Response(
        text="".join(delta.text for delta in deltas),
        response_length=sum(delta.tokens for delta in deltas),
        prompt_length=last.prompt_tokens,
        finish_reason=last.finish_reason,
        log_probs=tuple(item for delta in deltas for item in delta.log_probs),
    )


async def _checked(deltas: AsyncGenerator[Delta, None], wanted: Any) -> AsyncGenerator[Delta, None]:
    """Hand the pieces on; a response that says it is whole and does not obey ends in an error instead.

    One that was cut at the limit of tokens says so itself (``length``).

    Args:
        deltas: Pieces of one or more responses.
        wanted: Of :func:`validator`.

    Raises:
        ModelFault: A whole response is not JSON, or not as the schema wants it.
    """
    texts: dict[int, str] = defaultdict(str)
    async with aclosing(deltas):
        async for delta in deltas:
            texts[delta.index] += delta.text
            if delta.finish_reason == "stop":
                check(texts[delta.index], wanted)
            yield delta
