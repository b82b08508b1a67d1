# SPDX-License-Identifier: Apache-2.0
"""The routes."""

from __future__ import annotations

import base64
import secrets
import struct
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response

from .calls import Call, chat_call, completion_calls
from .disconnect import EventStream, unless_gone
from .errors import ApiError, to_api_error
from .protocol import ChatRequest, CompletionRequest, EmbeddingRequest, SamplingRequest, ScoreRequest
from .responses import Choice, Usage, chat_choices, dump, text_choices
from .server import Server

if TYPE_CHECKING:
    from ..chat.base_engine import Delta

_FAILURES = {
    400: "The request cannot be taken.",
    401: "No key, or a wrong one.",
    403: "This Host or Origin is not served.",
    404: "No such model.",
    405: "The loaded model is not for this route.",
    413: "The body is too large.",
    429: "Too many requests; Retry-After tells when to come back.",
}
RESPONSES: dict[int | str, dict[str, Any]] = {code: {"description": text} for code, text in _FAILURES.items()}


def make_router(server: Server) -> APIRouter:
    """The routes of one served model."""
    router = APIRouter(responses=RESPONSES)
    _add_server_routes(router, server)
    _add_generation_routes(router, server)
    _add_score_routes(router, server)
    return router


def _add_server_routes(router: APIRouter, server: Server) -> None:
    @router.get("/health", tags=["server"], summary="Whether the server takes requests.")
    async def health() -> Response:
        if server.admission.draining:
            raise ApiError(503, "the server is shutting down", code="shutting_down")
        return JSONResponse({"status": "ok"})

    @router.get("/metrics", tags=["server"], summary="Counts and times, for Prometheus.")
    async def metrics() -> Response:
        text = server.metrics.text(server.admission.running, server.admission.waiting)
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4")

    @router.get("/v1/models", tags=["models"], summary="The served model and its adapters.")
    async def models() -> Response:
        return JSONResponse({"object": "list", "data": [_model(server, name) for name in server.names]})

    @router.get("/v1/models/{model:path}", tags=["models"], summary="One of them.")
    async def model(model: str) -> Response:
        server.adapter(model)
        return JSONResponse(_model(server, model))


def _add_generation_routes(router: APIRouter, server: Server) -> None:
    @router.post("/v1/chat/completions", tags=["generation"], summary="Answer a conversation.")
    async def chat(body: ChatRequest, request: Request) -> Response:
        server.expect(scores=False)
        adapter = server.adapter(body.model)
        call = await unless_gone(request.receive, chat_call(body, server.engine, server.media), server.metrics)
        choices = chat_choices(call, body.n)
        return await _respond(server, body, request, [call], adapter, choices, "chatcmpl", "chat.completion")

    @router.post("/v1/completions", tags=["generation"], summary="Go on with a text.")
    async def completion(body: CompletionRequest, request: Request) -> Response:
        server.expect(scores=False)
        adapter = server.adapter(body.model)
        calls = completion_calls(body)
        echoes = [_text_of(server, call) if body.echo else "" for call in calls]
        choices = text_choices(calls, body.n, echoes)
        return await _respond(server, body, request, calls, adapter, choices, "cmpl", "text_completion")


def _add_score_routes(router: APIRouter, server: Server) -> None:
    @router.post("/v1/score/evaluation", tags=["scores"], summary="Score texts with a reward model.")
    async def score(body: ScoreRequest, request: Request) -> Response:
        server.expect(scores=True)
        server.adapter(body.model)
        limits = {} if body.max_length is None else {"max_length": body.max_length}

        async def work() -> list[float]:
            async with server.admission.slot():
                return await server.engine.get_scores(body.messages, **limits)

        scores = await unless_gone(request.receive, work(), server.metrics)
        return JSONResponse(
            {"id": _identity("scoreval"), "object": "score.evaluation", "model": body.model, "scores": scores}
        )

    @router.post("/v1/embeddings", tags=["scores"], summary="One vector for each text.")
    async def embeddings(body: EmbeddingRequest, request: Request) -> Response:
        server.expect(scores=False)
        server.adapter(body.model)
        if body.dimensions is not None:
            raise ApiError(400, "dimensions: not offered; vectors have the model's width", "dimensions")
        texts = [body.input] if isinstance(body.input, str) else body.input

        async def work() -> list[list[float]]:
            async with server.admission.slot():
                return await server.engine.embed(texts)

        vectors = await unless_gone(request.receive, work(), server.metrics)
        tokens = sum(map(len, server.engine.template.tokenizer(list(texts))["input_ids"]))
        data = [
            {"object": "embedding", "index": index, "embedding": _vector(vector, body.encoding_format)}
            for index, vector in enumerate(vectors)
        ]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return JSONResponse({"object": "list", "data": data, "model": body.model, "usage": usage})


async def _respond(
    server: Server,
    body: SamplingRequest,
    request: Request,
    calls: list[Call],
    adapter: str | None,
    choices: dict[tuple[int, int], Choice],
    prefix: str,
    kind: str,
) -> Response:
    """Respond whole or streamed; the parts that both forms and both routes have in common are made here."""
    head: dict[str, Any] = {"id": _identity(prefix), "object": kind, "created": int(time.time()), "model": body.model}
    deltas = server.deltas(calls, adapter)
    if not body.stream:
        usage = await unless_gone(request.receive, _read(deltas, choices), server.metrics)
        whole = [choice.choice() for choice in choices.values()]
        return JSONResponse({**head, "choices": whole, "usage": usage.body()})
    if kind == "chat.completion":
        head["object"] += ".chunk"
    # An error before the first piece still gets a status of its own.
    first = await unless_gone(request.receive, _first(deltas), server.metrics)
    with_usage = body.stream_options is not None and body.stream_options.include_usage
    return EventStream(_events(first, deltas, choices, head, with_usage), deltas, server.metrics)


async def _read(deltas: AsyncGenerator[tuple[int, Delta], None], choices: dict[tuple[int, int], Choice]) -> Usage:
    usage = Usage()
    async with aclosing(deltas):
        async for number, delta in deltas:
            usage.add(number, delta)
            for _ in choices[number, delta.index].take(delta):
                pass
    return usage


async def _first(deltas: AsyncGenerator[tuple[int, Delta], None]) -> tuple[int, Delta]:
    try:
        return await anext(deltas)
    except BaseException:
        await deltas.aclose()
        raise


async def _events(
    first: tuple[int, Delta],
    rest: AsyncGenerator[tuple[int, Delta], None],
    choices: dict[tuple[int, int], Choice],
    head: dict[str, Any],
    with_usage: bool,
) -> AsyncGenerator[str, None]:
    """The events of a stream, as JSON texts."""
    usage = Usage()
    no_usage = {"usage": None} if with_usage else {}
    item: tuple[int, Delta] | None = first
    try:
        while item is not None:
            number, delta = item
            usage.add(number, delta)
            for choice in choices[number, delta.index].take(delta):
                yield dump({**head, "choices": [choice], **no_usage})
            item = await anext(rest, None)
    except Exception as error:  # the status is sent already: the error must go into the stream
        yield dump(to_api_error(error).body())
        return
    if with_usage:
        yield dump({**head, "choices": [], "usage": usage.body()})
    yield "[DONE]"


def _identity(prefix: str) -> str:
    return f"{prefix}-{secrets.token_hex(16)}"


def _model(server: Server, name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": server.created, "owned_by": "owner"}


def _text_of(server: Server, call: Call) -> str:
    prompt: Any = call.prompt
    return prompt if isinstance(prompt, str) else str(server.engine.template.tokenizer.decode(prompt))


def _vector(vector: Sequence[float], encoding: str) -> list[float] | str:
    """The vector as numbers, or as little-endian float32 in base64."""
    if encoding == "float":
        return list(vector)
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
