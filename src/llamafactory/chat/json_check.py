# SPDX-License-Identifier: Apache-2.0
"""Responses that shall be JSON, read once more when they are whole: constraints know less than JSON Schema."""

from __future__ import annotations

import json
from typing import Any

from ..extras.errors import ConfigError, ModelFault, first_line
from ..extras.packages import require

_KEY = "json_schema"
_MOST = 100_000  # characters; what larger ones cost to be made a grammar of, other requests wait


def validator(schema: dict[str, Any]) -> Any:
    """A validator of the package jsonschema-rs; ``{}`` is any object.

    Raises:
        ConfigError: The package is missing, or it is no schema, too large, or one that points elsewhere.
    """
    library = require("jsonschema_rs", _KEY, "jsonschema-rs")
    try:
        size = len(json.dumps(schema))
    except RecursionError:
        raise ConfigError(f"{_KEY}: nested too deeply") from None
    if size > _MOST:
        raise ConfigError(f"{_KEY}: {size:,} characters; at most {_MOST:,}")
    try:
        return library.validator_for(schema or {"type": "object"}, retriever=_refuse_elsewhere)
    except ValueError as error:
        raise ConfigError(f"{_KEY}: {first_line(error)[:300]}") from None


def _refuse_elsewhere(address: str) -> None:
    raise ValueError("a schema is taken from the request alone")


def _no_number(word: str) -> None:
    raise ValueError(f"{word} is no JSON")


def check(text: str, wanted: Any) -> None:
    """Read a whole response.

    Args:
        text: What the model wrote.
        wanted: Of :func:`validator`.

    Raises:
        ModelFault: It is not JSON, or not as the schema wants it.
    """
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
