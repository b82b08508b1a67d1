# SPDX-License-Identifier: Apache-2.0
"""Arguments that stand one by one: how a value is written, and how they are read back."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

_QUOTED = r"'(?:[^'\\]|\\.)*'|\[.*?\]|\{.*?\}|[\w.+-]+"
_ESCAPES = {"n": "\n", "r": "\r"}
_PYTHON = {"True": True, "False": False, "None": None}


def write_value(value: Any, style: str) -> str:
    """One value in a style of ``JsonToolFormat.values``; `template_jinja` holds the same as Jinja."""
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
    except json.JSONDecodeError:
        return text
