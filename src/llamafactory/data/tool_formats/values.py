# SPDX-License-Identifier: Apache-2.0
"""Arguments that stand one by one: how a value is written, and how they are read back."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

_QUOTED = r"'(?:[^'\\]|\\.)*'|\[.*?\]|\{.*?\}|[\w.+-]+"
_MARK = '<|"|>'
_ESCAPES = {"n": "\n", "r": "\r"}
_PYTHON = {"True": True, "False": False, "None": None}


def write_value(value: Any, style: str) -> str:
    """One value in a style of ``JsonToolFormat.values``; `jinja_writer` holds the same as Jinja."""
    if style == "gemma":
        return _write_gemma(value)
    if isinstance(value, str):
        if style != "quoted":
            return value
        for plain, escaped in (("\\", "\\\\"), ("'", "\\'"), ("\n", "\\n"), ("\r", "\\r")):
            value = value.replace(plain, escaped)
        return f"'{value}'"
    if style == "text" or isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False)
    return str(value)


def read_arguments(
    text: str, start: int, literals: tuple[str, str, str], style: str, schema: Mapping[str, Any]
) -> tuple[dict[str, Any], int] | None:
    """Read the arguments of a call.

    Args:
        text: What the model wrote.
        start: Where the first argument begins.
        literals: One argument with its slots, what joins two, and what closes the call.
        style: As in ``JsonToolFormat.values``.
        schema: JSON schema of the arguments.

    Returns:
        The arguments and where the call ends; ``None`` if they do not end as they must.
    """
    argument, join, close = literals
    opening, between, ending = map(re.escape, re.split(r"\{\{\w+\}\}", argument))
    key, value = (r"[^\s='\"()\[\]{}]+", _QUOTED) if style == "quoted" else (".*?", ".*?")
    follows = f"(?={re.escape(join)}{opening}{key if style == 'quoted' else '[^<>]*?'}{between}|{re.escape(close)})"
    one = re.compile(f"{opening}(?P<key>{key}){between}(?P<value>{value}){ending}{follows}", re.DOTALL)
    found: dict[str, Any] = {}
    position = start
    while match := one.match(text, position):
        kind = schema.get("properties", {}).get(match["key"], {}).get("type")
        found[match["key"]] = _read_value(match["value"], style, kind)
        position = match.end()
        if text.startswith(join, position) and one.match(text, position + len(join)):
            position += len(join)
    if not text.startswith(close, position):
        return None
    return found, position + len(close)


def _read_value(text: str, style: str, kind: Any) -> Any:
    if style == "quoted" and text.startswith("'"):
        return re.sub(r"\\(.)", lambda escaped: _ESCAPES.get(escaped[1], escaped[1]), text[1:-1], flags=re.DOTALL)
    if kind == "string":
        return text
    if style != "text" and text in _PYTHON:
        return _PYTHON[text]
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        return text


def sort_keys(value: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Items in the order of Jinja's ``dictsort``."""
    return sorted(value.items(), key=lambda item: item[0].lower())


def _write_gemma(value: Any) -> str:
    if isinstance(value, str):
        return f"{_MARK}{value}{_MARK}"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_write_gemma(item)}" for key, item in sort_keys(value)) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_write_gemma, value)) + "]"
    return json.dumps(value)


def read_gemma(text: str, start: int) -> tuple[dict[str, Any], int] | None:
    """Read arguments in Gemma 4's marks, whose opening brace stands right before ``start``; returns where they end."""
    try:
        value, end = _read_gemma(text, start - 1)
    except (ValueError, IndexError):
        return None
    return (value, end) if isinstance(value, dict) and text.startswith("<tool_call|>", end) else None


def _read_gemma(text: str, position: int) -> tuple[Any, int]:
    if text.startswith(_MARK, position):
        end = text.index(_MARK, position + len(_MARK))
        return text[position + len(_MARK) : end], end + len(_MARK)
    if text[position] not in "{[":
        return json.JSONDecoder().raw_decode(text, position)
    items: list[Any] = []
    keys: list[str] = []
    closing = "}" if text[position] == "{" else "]"
    while text[position + 1] != closing or items:
        if text[position] == closing:
            break
        position += 1
        if closing == "}":
            colon = text.index(":", position)
            keys.append(text[position:colon])
            position = colon + 1
        value, position = _read_gemma(text, position)
        items.append(value)
    else:
        position += 1
    return (dict(zip(keys, items, strict=True)) if closing == "}" else items), position + 1
