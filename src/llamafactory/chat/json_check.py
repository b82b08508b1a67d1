# SPDX-License-Identifier: Apache-2.0
"""Responses that shall be JSON, read once more when they are whole: constraints know less than JSON Schema."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from ..extras.errors import ConfigError, ModelFault, first_line
from ..extras.packages import require

_KEY = "json_schema"


def validator(schema: dict[str, Any]) -> Any:
    """A validator of the package jsonschema-rs; ``{}`` is any object.

    Raises:
        ConfigError: The package is missing, or it is no schema, or one that points elsewhere.
    """
    library = require("jsonschema_rs", _KEY, "jsonschema-rs")
    try:
        return library.validator_for(schema or {"type": "object"}, retriever=_refuse_elsewhere)
    except ValueError as error:
        raise ConfigError(f"{_KEY}: {first_line(error)[:300]}") from None


def _refuse_elsewhere(address: str) -> None:
    raise ValueError("a schema is taken from the request alone")


def _no_number(word: str) -> None:
    raise ValueError(f"{word} is no JSON")


async def checked(deltas: AsyncGenerator[Any, None], wanted: Any) -> AsyncGenerator[Any, None]:
    """Hand the pieces on; a response that says it is whole and does not obey ends in an error instead.

    One that was cut at the limit of tokens says so itself (``length``).

    Args:
        deltas: Pieces of one or more responses, `Delta` of the engines.
        wanted: Of :func:`validator`.

    Raises:
        ModelFault: A whole response is not JSON, or not as the schema wants it.
    """
    texts: dict[int, str] = defaultdict(str)
    async with aclosing(deltas):
        async for delta in deltas:
            texts[delta.index] += delta.text
            if delta.finish_reason == "stop":
                _check(texts[delta.index], wanted)
            yield delta


def _check(text: str, wanted: Any) -> None:
    try:
        value = json.loads(text, parse_constant=_no_number)
    except ValueError as error:
        raise ModelFault(f"{_KEY}: the answer is no whole JSON ({error})") from None
    problem = next(iter(wanted.iter_errors(value)), None)
    if problem is not None:
        place = "/".join(map(str, problem.instance_path))
        raise ModelFault(
            f"{_KEY}: the answer does not obey it{f' at {place}' if place else ''}: {problem.message[:300]}"
        )
