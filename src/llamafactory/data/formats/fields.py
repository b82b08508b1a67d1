# SPDX-License-Identifier: Apache-2.0
"""Fields of a row as the layouts read them: text, lists, tools, labels, margins."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from ...extras.errors import ConfigError, short
from ...extras.surrogates import refuse_lone

Row = Mapping[str, Any]
_SCHEMAS = {"input_schema": "parameters", "inputSchema": "parameters"}


def text_field(row: Row, column: str | None) -> str:
    """Return the text of a column; "" when the set has no such column or the row leaves it empty."""
    value = row.get(column) if column else None
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ConfigError(f"field {column!r} is {short(value)}, expected text")
    return value


def list_field(row: Row, column: str | None) -> list[Any]:
    """Return the list in a column, which may be written as JSON text (as in CSV files)."""
    value = row.get(column) if column else None
    if value is None or value == "":
        return []
    if isinstance(value, str):
        value = parse_json(value, f"field {column!r}")
    if not isinstance(value, list):
        raise ConfigError(f"field {column!r} is {short(value)}, expected a list")
    return value


def tools_field(row: Row, column: str | None) -> tuple[dict[str, Any], ...]:
    """Return the tools of a row as OpenAI tool objects; bare ``{name, description, parameters}`` is wrapped."""
    tools = []
    for number, tool in enumerate(list_field(row, column), start=1):
        function = tool.get("function", tool) if isinstance(tool, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise ConfigError(f"field {column!r}, tool {number}: {short(tool)} has no function name")
        tools.append(dict(tool) if "function" in tool else {"type": "function", "function": _bare_function(tool)})
    return tuple(tools)


def _bare_function(tool: Row) -> dict[str, Any]:
    """A tool without a wrapping: of the Responses API (its type stands in the wrapping), of Anthropic, of MCP."""
    function = {_SCHEMAS.get(name, name): value for name, value in tool.items()}
    if function.get("type") == "function":
        del function["type"]
    return function


def label_field(row: Row, column: str | None) -> bool | None:
    """Return the KTO label; None when the set has none."""
    if column is None:
        return None
    value = row.get(column)
    if isinstance(value, str):  # CSV
        value = {"true": True, "1": True, "false": False, "0": False}.get(value.lower(), value)
    if not isinstance(value, int) or value not in (0, 1):
        raise ConfigError(f"field {column!r} is {short(value)}, expected true or false")
    return bool(value)


def margin_field(row: Row, column: str | None) -> float | None:
    """Return by how much the chosen completion is the better one; None when the set does not say."""
    value = row.get(column) if column else None
    if value is None or value == "":
        return None
    try:
        margin = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        margin = math.nan
    if not math.isfinite(margin):
        raise ConfigError(f"field {column!r} is {short(value)}, expected a number")
    return margin


def require_columns(row: Row, *columns: str | None) -> None:
    """Raise when a column that must be there is not among the row's fields."""
    for column in columns:
        if column is not None and column not in row:
            raise ConfigError(f"missing column {column!r}; the row has {', '.join(map(repr, row)) or 'no field'}")


def parse_json(text: str, what: str) -> Any:
    """Parse JSON text of a field; the error says which and where."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{what} is not JSON: {error.msg} at column {error.colno}: {short(text)}") from None
    except RecursionError:
        raise ConfigError(f"{what} is not JSON: nested too deep") from None
    refuse_lone(text, value, what)
    return value
