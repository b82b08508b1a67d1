# SPDX-License-Identifier: Apache-2.0
"""The routes."""

from __future__ import annotations

import base64
import math
import struct
import time
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response

from .answering import respond
from .calls import Call, chat_call, completion_calls
from .choices import Choices, chat_choices, text_choices
from .disconnect import unless_gone
from .errors import ApiError
from .protocol import ChatRequest, ChoicesRequest, CompletionRequest, EmbeddingRequest, RerankRequest, ScoreRequest
from .rerank import conversations, pairs, ranking
from .response_answer import ResponseAnswer, identity
from .response_call import response_call
from .response_protocol import ResponsesRequest
from .server import Server

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
        server.expect_name(model)
        return JSONResponse(_model(server, model))


def _add_generation_routes(router: APIRouter, server: Server) -> None:
    @router.post("/v1/chat/completions", tags=["generation"], summary="Answer a conversation.")
    async def chat(body: ChatRequest, request: Request) -> Response:
        server.expect("text")
        name, adapter = server.choose(body.model)
        call = await unless_gone(request.receive, chat_call(body, server.engine, server.media), server.metrics)
        head = _head("chatcmpl-", "chat.completion", name)
        answer = Choices(head, "chat.completion.chunk", chat_choices(call, body.n), _with_usage(body))
        return await respond(server, request, [call], adapter, answer, body.stream)

    @router.post("/v1/completions", tags=["generation"], summary="Go on with a text.")
    async def completion(body: CompletionRequest, request: Request) -> Response:
        server.expect("text")
        name, adapter = server.choose(body.model)
        calls = completion_calls(body, server.engine)
        echoes = [_text_of(server, call) if body.echo else "" for call in calls]
        head = _head("cmpl-", "text_completion", name)
        answer = Choices(head, "text_completion", text_choices(calls, body.n, echoes), _with_usage(body))
        return await respond(server, request, calls, adapter, answer, body.stream)

    @router.post("/v1/responses", tags=["generation"], summary="Answer items of a conversation with such items.")
    async def response(body: ResponsesRequest, request: Request) -> Response:
        server.expect("text")
        name, adapter = server.choose(body.model)
        call = await unless_gone(request.receive, response_call(body, server.engine, server.media), server.metrics)
        return await respond(server, request, [call], adapter, ResponseAnswer(body, name, call), body.stream)


def _add_score_routes(router: APIRouter, server: Server) -> None:
    @router.post("/v1/score/evaluation", tags=["scores"], summary="Score texts with a reward model.")
    async def score(body: ScoreRequest, request: Request) -> Response:
        server.expect("scores")
        name, _ = server.choose(body.model)
        limits = {} if body.max_length is None else {"max_length": body.max_length}
        texts = body.messages
        scores, _ = await server.work(
            request, lambda: server.engine.get_scores(texts, **limits), texts, body.max_length
        )
        return JSONResponse(
            {"id": identity("scoreval-"), "object": "score.evaluation", "model": name, "scores": scores}
        )

    @router.post("/v1/rerank", tags=["scores"], summary="Order documents by how well they answer a query.")
    async def rerank(body: RerankRequest, request: Request) -> Response:
        server.expect("ranks")
        name, _ = server.choose(body.model)
        texts = pairs(body) if server.pairs else conversations(body, server.engine.template)
        counted = ["\n".join(text) if isinstance(text, tuple) else text for text in texts]
        scores, tokens = await server.work(request, lambda: server.engine.get_scores(texts), counted)
        return JSONResponse(ranking(body, name, scores, tokens))

    @router.post("/v1/embeddings", tags=["scores"], summary="One vector for each text.")
    async def embeddings(body: EmbeddingRequest, request: Request) -> Response:
        server.expect("vectors")
        name, _ = server.choose(body.model)
        before = _prompt(server, body)
        texts = [before + text for text in ([body.input] if isinstance(body.input, str) else body.input)]
        vectors, tokens = await server.work(request, lambda: server.engine.embed(texts), texts)
        data = [
            {
                "object": "embedding",
                "index": index,
                "embedding": _vector(_cut(vector, body.dimensions), body.encoding_format),
            }
            for index, vector in enumerate(vectors)
        ]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return JSONResponse({"object": "list", "data": data, "model": name, "usage": usage})


def _prompt(server: Server, body: EmbeddingRequest) -> str:
    """What stands before each text; only a model that was trained to make vectors is asked for a kind or a width."""
    for name in ("dimensions", "input_type"):
        if server.prompts is None and getattr(body, name) is not None:
            raise ApiError(400, f"{name}: not offered; the model was not trained in stage embedding", name)
    return (server.prompts or {}).get(body.input_type or "", "")


def _cut(vector: list[float], width: int | None) -> list[float]:
    """The first numbers of a vector, of unit length again."""
    if width is None or width == len(vector):
        return vector
    if width > len(vector):
        raise ApiError(400, f"dimensions: {width} is more than the {len(vector)} that vectors have", "dimensions")
    length = math.hypot(*vector[:width])
    return [number / length for number in vector[:width]] if length else vector[:width]


def _head(prefix: str, kind: str, model: str) -> dict[str, Any]:
    return {"id": identity(prefix), "object": kind, "created": int(time.time()), "model": model}


def _with_usage(body: ChoicesRequest) -> bool:
    return body.stream_options is not None and body.stream_options.include_usage


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
