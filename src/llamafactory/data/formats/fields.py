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


def target_field(row: Row, column: str | None) -> Any:
    """Return what a classifier shall say of the row, as it stands there; None when the set has none."""
    if column is None:
        return None
    value = _perhaps_list(row.get(column))
    parts = value if isinstance(value, list) else [value]
    if value is not None and not all(isinstance(part, str | int | float) for part in parts):
        raise ConfigError(f"field {column!r} is {short(value)}, expected a class, a number or a list of them")
    return value


def documents_fields(
    row: Row, positive: str | None, negative: str | None, score: str | None
) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """Return the documents of a row's query and how relevant each is; none when the set has no such columns.

    Without ``score`` positives count 1, negatives 0; with it there is a number for each document of ``positive``.
    """
    if positive is None and negative is None:
        return (), ()
    good, bad = _texts(row, positive), _texts(row, negative)
    value = _perhaps_list(row.get(score)) if score else None
    if value is None:
        return (*good, *bad), (1.0,) * len(good) + (0.0,) * len(bad)
    given = value if isinstance(value, list) else [value]
    grades = tuple(number_of(one, f"field {score!r}") for one in given)
    if len(grades) != len(good):
        raise ConfigError(f"field {score!r} holds {len(grades)} numbers for {len(good)} documents in {positive!r}")
    return (*good, *bad), grades + (0.0,) * len(bad)


def _texts(row: Row, column: str | None) -> list[str]:
    value = _perhaps_list(row.get(column) if column else None)
    texts = [] if value in (None, "") else value if isinstance(value, list) else [value]
    if not all(isinstance(text, str) and text.strip() for text in texts):
        raise ConfigError(f"field {column!r} is {short(value)}, expected a text or a list of texts")
    return texts


def _perhaps_list(value: Any) -> Any:
    """A list that is written as JSON text (as in CSV files); other text stays what it is."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            found = json.loads(value)
        except (json.JSONDecodeError, RecursionError):
            return value
        return found if isinstance(found, list) else value
    return value


def number_of(value: Any, what: str) -> float:
    """Return a finite number, which may be written as text; ``what`` is named in the error."""
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ConfigError(f"{what} is {short(value)}, expected a number")
    return number


def margin_field(row: Row, column: str | None) -> float | None:
    """Return by how much the chosen completion is the better one; None when the set does not say."""
    value = row.get(column) if column else None
    if value is None or value == "":
        return None
    return number_of(value, f"field {column!r}")


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
