# SPDX-License-Identifier: Apache-2.0
"""What stands before the page: who may ask, for what, how much, and what the browser may do with the answer."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, PlainTextResponse, Response

from ...extras.environment import host_name, is_loopback
from ...extras.serving import replay

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

# gradio has many more routes: files of this machine, a proxy, an editor. The page needs these.
_FILES = ("assets", "static", "svelte", "theme.css", "favicon.ico", "manifest.json", "robots.txt")
_PAGE = ("", "config", "login", "logout", *_FILES)
_API = ("info", "config", "startup-events", "heartbeat", "queue", "cancel", "reset", "call", "theme.css")
_UPLOAD = ("/gradio_api/upload", "/gradio_api/upload_progress")  # of a model that takes images, videos or sound

# The page loads nothing from elsewhere: an answer cannot make the browser call another machine (an image's address can
# carry what was said). gradio's own page has scripts and styles inside.
_POLICY = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self' data:",
        "connect-src 'self'",
        "frame-src 'none'",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'self'",
    )
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


class Guard:
    """ASGI middleware that refuses what the page does not need.

    Args:
        app: The page.
        host: Bound address; without a login, the only name besides the loopback ones that a Host header may have.
        login: A login protects the page.
        max_body: Largest request body, in bytes.
        max_upload: Largest body of an upload, in bytes; 0 = nothing is uploaded.
        on_end: Ends the connections that pages hold open.

    Attributes:
        origins: Further hosts, as the Origin header names them, whose pages may call.
    """

    def __init__(
        self, app: ASGIApp, host: str, login: bool, max_body: int, max_upload: int, on_end: Callable[[], None]
    ) -> None:
        self._app, self._host, self._login, self._max_body = app, host.strip("[]"), login, max_body
        self._max_upload, self._on_end = max_upload, on_end
        self._ending = False
        self.origins: set[str] = set()

    def end(self) -> None:
        """The server is going to stop."""
        self._ending = True
        self._on_end()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        refusal = self._refuse(scope, Headers(scope=scope))
        if refusal is not None:
            await _refusal(scope, *refusal)(scope, receive, with_headers)
            return
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        if scope["method"] == "POST" and path.startswith("/gradio_api/") and path not in _UPLOAD:
            body = await _read(receive)
            if not _names_uploads_only(body):
                reason = "the body is no JSON, or names a file that was not uploaded"
                await _refusal(scope, 403, reason)(scope, receive, with_headers)
                return
            receive = replay(body, receive)
        try:
            await self._app(scope, receive, with_headers)
        except asyncio.CancelledError:
            if not self._ending:  # at the end that is how an answer is cut off, and no error
                raise

    def _refuse(self, scope: Scope, headers: Headers) -> tuple[int, str] | None:
        """Return status and reason, or ``None`` for what may pass."""
        name = host_name(headers.get("host", ""))
        # Without a login, a page that gave its own name the address of this machine must not get through.
        if not self._login and not is_loopback(name) and name != self._host:
            return 403, "this Host is not served"
        origin = headers.get("origin")
        if origin is not None:
            sender = urlsplit(origin).netloc.lower()
            if sender != headers.get("host", "").lower() and sender not in self.origins:
                return 403, "this Origin is not allowed"
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        uploads = bool(self._max_upload) and path in _UPLOAD
        if not uploads and not _is_needed(path):
            return 404, "not found"
        if scope["method"] in ("GET", "HEAD", "OPTIONS"):
            return None
        length = headers.get("content-length", "")
        if not length.isdecimal():
            return 411, "the length of the body must be given"
        most = self._max_upload if uploads else self._max_body
        if int(length) > most:
            return 413, f"the body is larger than {most} bytes"
        return None


def _refusal(scope: Scope, status: int, reason: str) -> Response:
    """A page shows the reason that is given in gradio's own form; programs and people read it too."""
    if "/gradio_api/" in scope["path"]:
        return JSONResponse({"detail": reason}, status)
    return PlainTextResponse(reason, status)


async def _read(receive: Receive) -> bytes:
    """The body of a request, whose length was checked before."""
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            return body


def _names_uploads_only(body: bytes) -> bool:
    """Whether every file that a question names was uploaded.

    gradio itself, mounted in another application, copies any file of this machine that a question names and reads it,
    and fetches addresses.
    """
    from gradio.utils import get_upload_folder

    folder = os.path.realpath(get_upload_folder())
    strange: list[Any] = []

    def look(pairs: list[tuple[str, Any]]) -> None:
        for key, value in pairs:
            if key == "path" and not (isinstance(value, str) and is_below(folder, value)):
                strange.append(value)

    try:
        json.loads(body or b"null", object_pairs_hook=look)
    except (ValueError, RecursionError):
        return False
    return not strange


def is_below(folder: str, path: str) -> bool:
    """Whether a path is that of something below a folder, wherever links lead."""
    if not os.path.isabs(path) or "\0" in path:
        return False
    real = os.path.realpath(path)
    return real != folder and os.path.commonpath([folder, real]) == folder


def _is_needed(path: str) -> bool:
    first, _, rest = path.removeprefix("/").partition("/")
    if first == "gradio_api":
        return rest.partition("/")[0] in _API
    return first in _PAGE and (first in _FILES or not rest)
