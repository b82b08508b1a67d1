# SPDX-License-Identifier: Apache-2.0
"""From what a file or a command line holds to the type a key declares."""

from __future__ import annotations

import difflib
import json
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import yaml

from ..extras.errors import ConfigError, short

TRUE_WORDS = ("true", "yes", "on", "1")
FALSE_WORDS = ("false", "no", "off", "0")
NULL_WORDS = ("null", "none", "~")
_MOST_CHOICES = 20


class _Refused(Exception):
    """The value is not of this type."""


def coerce(key: str, value: Any, hint: Any, *, comma: bool = False) -> Any:
    """Convert one value to the type that its key declares.

    Args:
        key: Name of the key, for the message.
        value: As read from YAML, JSON, a command line (then text) or Python.
        hint: The declared type: bool, int, float, str, dict, list[str], Literal, or a union of them.
        comma: The key keeps a comma list as one string; a list is joined.

    Raises:
        ConfigError: ``key: expected TYPE, got VALUE``.
    """
    if isinstance(value, str) and "\0" in value:
        raise ConfigError(f"{key}: holds a NUL character, got {short(value)}")
    if comma and (isinstance(value, (list, tuple)) or _is_list_text(value)):
        return _join(key, value)
    options = _options(hint)
    if value is None or (isinstance(value, str) and NoneType in options and _means_null(value, options)):
        if NoneType in options:
            return None
        raise ConfigError(f"{key}: expected {describe(hint)}, got null")
    for option in _in_order(options, value):
        try:
            return _convert(value, option)
        except _Refused:
            continue
    raise ConfigError(f"{key}: expected {_near(hint, value) or describe(hint)}, got {short(value)}")


def _near(hint: Any, value: Any) -> str | None:
    """Name the choices most like a wrong one, where all of them would be too many to read."""
    choices = get_args(hint) if get_origin(hint) is Literal else ()
    if len(choices) <= _MOST_CHOICES:
        return None
    word = str(value).lower()
    alike = [choice for choice in choices if word in choice]
    near = list(dict.fromkeys([*alike, *difflib.get_close_matches(word, choices)]))[:5]
    return f"one of {', '.join(near)} ({len(choices) - len(near)} more: see -h)" if near else None


def describe(hint: Any) -> str:
    """Name a type as a user would: ``int``, ``float or null``, ``one of text, json``."""
    words: list[str] = []
    choices: list[str] = []
    for option in _options(hint):
        if get_origin(option) is Literal:
            choices += [as_written(choice) for choice in get_args(option)]
        elif get_origin(option) is list:
            words.append("list")
        else:
            words.append(
                {NoneType: "null", dict: "mapping", str: "text", bool: "true or false"}.get(option) or option.__name__
            )
    if choices:
        words.insert(0, ("one of " if len(choices) > 1 else "") + ", ".join(choices))
    return " or ".join(words)


def as_written(choice: Any) -> str:
    """A value as YAML and the command line have it."""
    return str(choice).lower() if isinstance(choice, bool) else str(choice)


def _options(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _in_order(options: tuple[Any, ...], value: Any) -> list[Any]:
    """Put the type the value already has first, and text, which takes all text, last."""
    rank: dict[Any, int] = {dict: 0, list: 0, bool: 1, int: 2, float: 3, str: 5}
    exact = type(value)
    if isinstance(value, str) and "," not in value and not _is_list_text(value):
        rank[list] = 6  # one word stays a word where the key takes either
    return sorted(
        (option for option in options if option is not NoneType),
        key=lambda option: -1 if option is exact and exact is not str else rank.get(get_origin(option) or option, 4),
    )


def _convert(value: Any, option: Any) -> Any:
    if get_origin(option) is Literal:
        return _choice(value, get_args(option))
    if get_origin(option) is list:
        return _list(value)
    return {bool: _bool, int: _int, float: _float, str: _str, dict: _dict}[option](value)


def _choice(value: Any, choices: tuple[Any, ...]) -> Any:
    for choice in choices:
        if value == choice and isinstance(value, bool) == isinstance(choice, bool):
            return choice
    if value is False and "no" in choices:  # YAML reads a bare `no` as false
        return "no"
    if isinstance(value, str):
        for choice in choices:
            if value.strip().lower() == as_written(choice).lower():
                return choice
    raise _Refused


def _bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    word = str(value).strip().lower() if isinstance(value, (str, int)) else ""
    if word in TRUE_WORDS or word in FALSE_WORDS:
        return word in TRUE_WORDS
    raise _Refused


def _int(value: Any) -> int:
    number = _float(value)
    if number != number or number in (float("inf"), float("-inf")) or number != int(number):
        raise _Refused
    return int(value) if isinstance(value, int) else int(number)


def _float(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise _Refused
    try:
        return float(value)
    except ValueError:
        raise _Refused from None


def _str(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    if hasattr(value, "__fspath__"):
        return str(value)
    raise _Refused


def _list(value: Any) -> list[str]:
    if _is_list_text(value):
        value = yaml.safe_load(value)
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    if isinstance(value, (list, tuple)):
        return [_str(part) for part in value]
    raise _Refused


def _dict(value: Any) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    if isinstance(value, str) and value.strip().startswith("{"):
        for read in (json.loads, yaml.safe_load):
            try:
                found = read(value)
            except (ValueError, yaml.YAMLError):
                continue
            if isinstance(found, dict):
                return found
    raise _Refused


def _means_null(value: str, options: tuple[Any, ...]) -> bool:
    """``none`` is null for numbers and choices, but may be a word of a text key (``report_to: none``) or a choice."""
    word = value.strip().lower()
    is_choice = any(word in get_args(option) for option in options if get_origin(option) is Literal)
    return word in ("null", "~") or (word in NULL_WORDS and str not in options and not is_choice)


def _is_list_text(value: Any) -> bool:
    if not (isinstance(value, str) and value.strip().startswith("[") and value.strip().endswith("]")):
        return False
    try:
        return isinstance(yaml.safe_load(value), list)
    except yaml.YAMLError:
        return False


def _join(key: str, value: Any) -> str:
    """Join a list to the comma string that the key keeps."""
    parts = yaml.safe_load(value) if isinstance(value, str) else value
    words: list[str] = []
    for part in parts:
        try:
            words.append(_str(part))
        except _Refused:
            raise ConfigError(f"{key}: expected a list of text, got {short(part)} in it") from None
        if "," in words[-1]:
            raise ConfigError(f"{key}: an entry may not contain a comma, got {short(part)}")
    return ",".join(words)
