# SPDX-License-Identifier: Apache-2.0
"""What the layouts share: fields of a row, turns of a conversation, tool lists, loss weights."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from ...extras.errors import ConfigError
from ..dataset_info import DatasetAttr
from ..messages import Message, Part, ToolCall

Row = Mapping[str, Any]
_END_OF_THOUGHT = "</think>"
_WEIGHTS = ("train", "weight", "loss_weight")


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
        tools.append(dict(tool) if "function" in tool else {"type": "function", "function": dict(tool)})
    return tuple(tools)


def label_field(row: Row, column: str | None) -> bool | None:
    """Return the KTO label; None when the set has none."""
    if column is None:
        return None
    value = row.get(column)
    if isinstance(value, str):  # CSV
        value = {"true": True, "1": True, "false": False, "0": False}.get(value.lower(), value)
    if not isinstance(value, bool):
        raise ConfigError(f"field {column!r} is {short(value)}, expected true or false")
    return value


def margin_field(row: Row, column: str | None) -> float | None:
    """Return by how much the chosen answer is the better one; None when the set does not say."""
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


def refuse_media(row: Row, attr: DatasetAttr) -> None:
    """Raise for rows with images, videos or audio: training on them without them would be silently wrong."""
    for column in (attr.columns.images, attr.columns.videos, attr.columns.audios):
        if column is not None and row.get(column):
            raise ConfigError(f"field {column!r}: images, videos and audio are not supported yet")


def read_turns(turns: list[Any], attr: DatasetAttr, column: str) -> tuple[Message, ...]:
    """Read the messages of a conversation in any order of roles.

    A function-call turn right after an assistant turn belongs to it: text and calls of one answer.
    """
    messages: list[Message] = []
    for number, turn in enumerate(turns, start=1):
        try:
            message = _read_turn(turn, attr)
        except ConfigError as error:
            raise ConfigError(f"field {column!r}, turn {number}: {error}") from None
        last = messages[-1] if messages else None
        follows = (
            last is not None and last.role == "assistant" and not last.tool_calls and last.weight == message.weight
        )
        if (
            last is not None
            and follows
            and isinstance(turn, Mapping)
            and turn.get(attr.tags.role_tag) == attr.tags.function_tag
        ):
            messages[-1] = Message(
                "assistant", last.parts + message.parts, message.tool_calls, last.reasoning, last.weight
            )
        else:
            messages.append(message)
    return tuple(messages)


def _read_turn(turn: Any, attr: DatasetAttr) -> Message:
    tags = attr.tags
    if not isinstance(turn, Mapping):
        raise ConfigError(f"{short(turn)} is not an object with {tags.role_tag!r} and {tags.content_tag!r}")
    role = turn.get(tags.role_tag)
    weight = _weight(turn)
    if role == tags.function_tag:
        return _function_turn(turn.get(tags.content_tag), weight)
    roles = {
        tags.user_tag: "user",
        tags.assistant_tag: "assistant",
        tags.observation_tag: "tool",
        tags.system_tag: "system",
    }
    if attr.formatting == "openai":
        roles["developer"] = "system"
    if role not in roles:
        choices = ", ".join(dict.fromkeys([*roles, tags.function_tag]))
        raise ConfigError(f"role {role!r} (key {tags.role_tag!r}) is not one of {choices}")
    content = turn.get(tags.content_tag)
    if roles[role] == "tool" and not isinstance(content, str) and attr.formatting != "openai":
        content = json.dumps(content, ensure_ascii=False)
    plain = {key: value for key, value in turn.items() if key not in (tags.role_tag, tags.content_tag, *_WEIGHTS)}
    if "function_call" in turn and not turn.get("tool_calls"):  # the OpenAI schema of 2023
        plain["tool_calls"] = [turn["function_call"]] if turn["function_call"] else None
    if content is None and not plain.get("tool_calls"):
        raise ConfigError(f"key {tags.content_tag!r} is missing or null")
    return Message.from_openai({**plain, "role": roles[role], "content": content, "weight": weight})


def _function_turn(content: Any, weight: float | None) -> Message:
    """Read a turn whose text is one call or a list of calls as JSON, perhaps after a thought."""
    parts: tuple[Part, ...] = ()
    if isinstance(content, str):
        thought, mark, rest = content.rpartition(_END_OF_THOUGHT)
        if mark:
            blank = len(rest) - len(rest.lstrip())
            parts = (Part("text", thought + mark + rest[:blank]),)
        content = parse_json(rest, "the function call")
    calls = content if isinstance(content, list) else [content]
    if not calls or not all(isinstance(call, Mapping) for call in calls):
        raise ConfigError(f"the function call is {short(content)}, expected {{name, arguments}} or a list of them")
    return Message("assistant", parts, tuple(ToolCall.from_openai(call) for call in calls), weight=weight)


def _weight(turn: Mapping[str, Any]) -> float | None:
    """Return the loss weight that ``train`` (true, false, number), ``weight`` or ``loss_weight`` (numbers) asks for."""
    for key in _WEIGHTS:
        value = turn.get(key)
        if value is None:
            continue
        if not isinstance(value, int | float) or value < 0:
            raise ConfigError(f"key {key!r} is {short(value)}, expected true, false or a number of 0 or more")
        return float(value)
    return None


def parse_json(text: str, what: str) -> Any:
    """Parse JSON text of a field; the error says which and where."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{what} is not JSON: {error.msg} at column {error.colno}: {short(text)}") from None


def short(value: Any) -> str:
    """Show a value in at most 60 characters."""
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."
