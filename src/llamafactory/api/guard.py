# SPDX-License-Identifier: Apache-2.0
"""What stands before every route: who may ask, from which page, and how large and deep a body may be."""

from __future__ import annotations

import asyncio
import hmac
import json
import re
import time
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders

from ..extras.environment import host_name, is_loopback
from ..extras.logging import get_logger
from ..extras.serving import replay
from ..extras.surrogates import NO_TEXT, lone_surrogate
from .access_log import Spent, log_request
from .errors import ApiError
from .metrics import Metrics
from .settings import ServerSettings

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

logger = get_logger(__name__)

# Neither tells anything about the model or its users; load balancers and people come without a key.
_OPEN_PATHS = ("/health", "/docs", "/docs/oauth2-redirect", "/redoc", "/openapi.json")
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F]")
_BRACKET = re.compile(rb"[\[{\]}]")


class Guard:
    """ASGI middleware that refuses what no route shall see, and counts responses.

    Args:
        app: What answers the rest.
        settings: Key, names, origins and limits.
        metrics: Gets route and status of every response.
    """

    def __init__(self, app: ASGIApp, settings: ServerSettings, metrics: Metrics) -> None:
        self._app, self._settings, self._metrics = app, settings, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = time.monotonic()
        status = 0
        spent = scope.setdefault("state", {})["spent"] = Spent()

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-Id"] = spent.id
            await send(message)

        try:
            try:
                self._admit(scope)
                body = await self._read(receive)
            except ApiError as error:
                await error.response()(scope, receive, counted)
            else:
                await self._app(scope, replay(body, receive), counted)
        finally:
            status = status or 499  # the client went away before an answer began
            seconds = time.monotonic() - start
            route = getattr(scope.get("route"), "path", "other")
            self._metrics.requests[route, status] += 1
            self._metrics.duration.observe(seconds)
            if self._settings.verbose:
                log_request(scope["method"], scope["path"], status, seconds, spent)

    def _admit(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        self._check_origin(headers)
        if self._settings.key is None:
            self._check_host(headers)
        elif scope["path"].removeprefix(self._settings.root_path) not in _OPEN_PATHS and scope["method"] != "OPTIONS":
            scheme, _, token = headers.get("authorization", "").partition(" ")
            right = hmac.compare_digest(token.strip().encode(), self._settings.key.encode())
            if scheme.lower() != "bearer" or not right:
                challenge = {"WWW-Authenticate": "Bearer"}
                raise ApiError(401, "missing or wrong API key", code="invalid_api_key", headers=challenge)

    def _check_host(self, headers: Headers) -> None:
        """Without a key, a page that gave its own name the address of this machine must not get through."""
        name = host_name(headers.get("host", ""))
        known = is_loopback(name) or name in (self._settings.host, *self._settings.hosts)
        if not known:
            raise ApiError(
                403, "this Host is not served; API_ALLOWED_HOSTS names further ones", code="host_not_allowed"
            )

    def _check_origin(self, headers: Headers) -> None:
        origin = headers.get("origin")
        if origin is None or {"*", origin} & set(self._settings.origins):
            return
        if urlsplit(origin).netloc.lower() != headers.get("host", "").lower():
            message = "this Origin is not allowed; API_CORS_ORIGINS names those that are"
            raise ApiError(403, message, code="origin_not_allowed")

    async def _read(self, receive: Receive) -> bytes:
        """Read the body; it must be small, shallow, and not take forever."""
        body = bytearray()
        try:
            async with asyncio.timeout(self._settings.body_seconds):
                more = True
                while more:
                    message = await receive()
                    body += message.get("body", b"")
                    more = message.get("more_body", False)
                    if len(body) > self._settings.max_body:
                        limit = self._settings.max_body // 2**20
                        raise ApiError(413, f"the body is larger than {limit} MiB", code="body_too_large")
        except TimeoutError:
            raise ApiError(408, "the body took too long to arrive", code="timeout") from None
        if depth_of(body, self._settings.max_depth) > self._settings.max_depth:
            raise ApiError(400, f"the JSON is nested deeper than {self._settings.max_depth}", code="too_deep")
        _refuse_half_characters(body)
        if self._settings.verbose > 1 and body:
            logger.info("request: %s", body.decode(errors="replace"))
        return bytes(body)


def _refuse_half_characters(body: bytes | bytearray) -> None:
    if not _ESCAPE.search(body):
        return
    text = body.decode(errors="replace")
    try:
        half = lone_surrogate(text, json.loads(text))
    except ValueError:
        return  # no JSON: the route says so
    if half:
        raise ApiError(400, f"{half} {NO_TEXT}", code="invalid_text")


def depth_of(body: bytes | bytearray, enough: int) -> int:
    """How deep the brackets of a JSON text are nested; not counted further than just above ``enough``."""
    if body.count(b"[") + body.count(b"{") <= enough:
        return 0
    depth = deepest = 0
    for bracket in _BRACKET.finditer(_STRING.sub(b"", body)):
        depth += 1 if bracket[0] in b"[{" else -1
        deepest = max(deepest, depth)
        if deepest > enough:
            break
    return deepest
