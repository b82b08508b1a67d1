# SPDX-License-Identifier: Apache-2.0
"""From a file of another program to keys of ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ...extras.errors import ConfigError
from . import axolotl, swift, v1
from .rules import Absent, Aside, Dialect, NoCounterpart, Values

DIALECTS: dict[str, Dialect] = {"v1": v1.dialect, "axolotl": axolotl.dialect, "swift": swift.dialect}
_NOTHING: tuple[Any, ...] = (None, False, "", [], {})
# Of two that set one key, values of these are put together instead.
_JOINED = ("dataset", "eval_dataset")


@dataclass
class Translation:
    """A configuration in our keys.

    Attributes:
        values: Our keys.
        silent: Those of them that the file did not write: what the other program means by silence.
        aside: Keys of the file that change nothing here -> why.
        absent: Keys of the file that have no counterpart -> what to know.
    """

    values: dict[str, Any] = field(default_factory=dict)
    silent: dict[str, Any] = field(default_factory=dict)
    aside: dict[str, str] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)


def recognize(values: Values) -> str | None:
    """Return the dialect that most keys of a file belong to and whose marks it bears, or None."""
    found = {name: len(dialect.marks.intersection(values)) for name, dialect in DIALECTS.items()}
    plugin = values.get("peft_config")  # the key is ours too; a name in it is not
    found["v1"] += isinstance(plugin, Mapping) and "name" in plugin
    name = max(found, key=lambda name: found[name])
    return name if found[name] else None


def translate(values: Values, name: str, is_ours: Callable[[str], bool]) -> Translation:
    """Say a configuration in our keys.

    Args:
        values: Keys as the other program has them.
        name: Of the dialect.
        is_ours: Whether we know a key; those that the dialect has no rule for stand as they are.

    Raises:
        ConfigError: A value has a shape that the other program does not take either.
    """
    dialect = DIALECTS[name]
    result = Translation()
    for key, value in values.items():
        rule = dialect.rules.get(key)
        if isinstance(rule, Aside):
            result.aside[key] = rule.why
        elif isinstance(rule, Absent):
            if value not in _NOTHING:
                result.absent[key] = rule.why
        elif rule is None:
            _keep(result, key, value, is_ours)
        elif value is None:
            continue
        else:
            _apply(result, key, value, rule, values)
    for key, value in dialect.defaults(values).items():
        if key not in result.values:
            result.values[key] = result.silent[key] = value
    return result


def _keep(result: Translation, key: str, value: Any, is_ours: Callable[[str], bool]) -> None:
    if is_ours(key):
        result.values[key] = value
    elif value not in _NOTHING:
        result.absent[key] = "no key here stands for it"


def _apply(result: Translation, key: str, value: Any, rule: Any, values: Values) -> None:
    try:
        found = {rule: value} if isinstance(rule, str) else rule(value, values)
    except NoCounterpart as error:
        result.absent[key] = str(error)
        return
    except (AttributeError, TypeError, KeyError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{key}: {value!r} is not what this program's files hold there") from None
    for ours, meaning in found.items():
        _set(result.values, ours, meaning)


def _set(values: dict[str, Any], key: str, value: Any) -> None:
    if key in values and isinstance(values[key], Mapping) and isinstance(value, Mapping):
        values[key] = {**values[key], **value}
    elif key in values and key in _JOINED:
        values[key] = f"{values[key]},{value}"
    else:
        values[key] = value
