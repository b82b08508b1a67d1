# SPDX-License-Identifier: Apache-2.0
"""Errors in OpenAI's form, and what a client may learn from one."""

from __future__ import annotations

import re
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from ..data.media.source import MediaError
from ..extras.errors import ConfigError, ModelFault
from ..extras.logging import get_logger
from .disconnect import ClientGone

logger = get_logger(__name__)

_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
_FORM = re.compile(r"[\[A-Z-]|^(?:str|float|int|bool)$")  # how a place names one form of several
_PATH = re.compile(r"(?<![\w:/])(?:~|\.{1,2}|[A-Za-z]:)?[\\/][^\s'\",;()]*[\\/]([^\s'\",;()\\/]*)")


class ApiError(Exception):
    """An error response.

    Args:
        status: HTTP status.
        message: What went wrong, for the client.
        param: The field it is about.
        code: Short name for programs.
        headers: Further headers of the response.
    """

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code, self.headers = status, message, param, code, headers or {}

    def body(self) -> dict[str, Any]:
        """``{"error": {...}}``."""
        kind = _TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        """The HTTP response."""
        return JSONResponse(self.body(), self.status, self.headers)


def to_api_error(error: Exception) -> ApiError:
    """What a client gets to know of an error; the rest is logged instead."""
    match error:
        case ApiError():
            return error
        case MediaError():
            return ApiError(400, f"messages: {public_text(str(error))}", "messages", "media_refused")
        case ModelFault():
            return ApiError(500, public_text(str(error)), code="internal_error")
        case ConfigError():
            message = public_text(str(error))
            param = re.match(r"(\w+): ", message)
            return ApiError(400, message, param[1] if param else None)
        case RequestValidationError():
            return _of_validation(error)
        case HTTPException():
            headers = dict(error.headers or {})
            does = f"; this path takes {headers['Allow']}" if "Allow" in headers else ""
            return ApiError(error.status_code, f"{error.detail}{does}", headers=headers)
    logger.error("request failed", exc_info=error)
    return ApiError(500, "the server could not answer this request; its log says why", code="internal_error")


def public_text(text: str) -> str:
    """The text without the folders of this machine."""
    return _PATH.sub(r"\1", text)


def _of_validation(error: RequestValidationError) -> ApiError:
    # Of several forms that a field may have, the one that fits best tells what is wrong.
    first = max(error.errors(), key=lambda one: (len(one["loc"]), not one["type"].endswith("_type")))
    if first["type"] == "json_invalid":
        return ApiError(400, f"the body is not JSON: {first['ctx']['error']}", code="invalid_json")
    place = [str(part) for part in first["loc"] if part != "body" and not _FORM.search(str(part))]
    param = ".".join(place) or None
    message = str(first["msg"]).removeprefix("Value error, ")
    if first["type"] == "finite_number":
        message += f", got {first['input']}"
    return ApiError(400, f"{param or 'body'}: {message}", param, first["type"])


def install(app: FastAPI) -> None:
    """Answer every error of the routes in this form."""

    async def respond(request: Request, error: Exception) -> JSONResponse:
        return to_api_error(error).response()

    async def silence(request: Request, error: Exception) -> Response:
        return Response(status_code=499)  # nobody hears it

    app.add_exception_handler(ClientGone, silence)
    for kind in (ApiError, ConfigError, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, respond)
