# SPDX-License-Identifier: Apache-2.0
"""Fields of a JSON file against the annotations of the class that a library makes of them.

Most libraries take any value there and fail much later, with a line that names neither the file nor the field.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from .errors import ConfigError
from .files import name_of

_LISTS = (list, set, tuple)
# Null for a flag or an object means that nothing is set. Numbers: 16.0 is as good as 16.
_PLAIN: dict[Any, tuple[type, ...]] = {bool: (bool, NoneType), int: (int, float), float: (int, float)}
_WORDS = {NoneType: "null", dict: "an object", str: "text", bool: "true or false", int: "a number", float: "a number"}


def check_fields(values: Mapping[str, Any], hints: Mapping[str, Any], where: str) -> None:
    """Compare the fields that a class declares; others, of newer or older versions, are left to it.

    Args:
        values: What stands in the file.
        hints: Name → annotation.
        where: Begins the line: the key and the file.

    Raises:
        ConfigError: A field has a value of another kind; names it.
    """
    for name, value in values.items():
        if name in hints and not fits(value, hints[name]):
            raise ConfigError(f"{where}: {name}: {_shown(value)}, expected {describe(hints[name])}")


def fits(value: Any, hint: Any = Any) -> bool:
    """Whether JSON may hold this value for a field of this annotation."""
    origin, inner = get_origin(hint) or hint, get_args(hint)
    if origin in (Union, UnionType):
        return any(fits(value, option) for option in inner)
    if origin is Literal:
        return any(_is_choice(value, choice) for choice in inner)
    if origin in _LISTS:
        return isinstance(value, list) and (not inner or all(fits(entry, inner[0]) for entry in value))
    if origin is dict or is_dataclass(origin):
        return value is None or (isinstance(value, dict) and all(fits(entry, *inner[1:]) for entry in value.values()))
    if origin in _PLAIN:
        return isinstance(value, _PLAIN[origin]) and isinstance(value, bool) == (origin is bool and value is not None)
    # Enumerations are written as text; of what is none of these nothing is known.
    return isinstance(value, str) if origin is str else value is None if origin is NoneType else True


def describe(hint: Any) -> str:
    """Name an annotation as a reader of the file would: ``a number or null``."""
    origin, inner = get_origin(hint) or hint, get_args(hint)
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(describe(option) for option in inner))
    if origin is Literal:
        return ", ".join(map(str, inner))
    if origin in _LISTS:
        return f"a list, each entry {describe(inner[0])}" if inner else "a list"
    return "an object" if is_dataclass(origin) else _WORDS.get(origin, "text")


def _is_choice(value: Any, choice: Any) -> bool:
    """PEFT writes ``pissa_niter_[number of iters]`` for a choice with a number in it."""
    head, holds_number, _ = str(choice).partition("[")
    return isinstance(value, str) and value.startswith(head) if holds_number else value == choice


def _shown(value: Any) -> str:
    return "null" if value is None else f"{str(value)[:60]!r} is {name_of(value)}"
