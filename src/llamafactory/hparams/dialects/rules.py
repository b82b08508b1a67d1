# SPDX-License-Identifier: Apache-2.0
"""What a table of a dialect is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Values = Mapping[str, Any]


class NoCounterpart(Exception):
    """A value that nothing here stands for; the message says what to know instead."""


@dataclass(frozen=True)
class Aside:
    """A key that changes nothing of a run here: why."""

    why: str


@dataclass(frozen=True)
class Absent:
    """A key that asks for what is not here: what to know instead. Its off values ask for nothing."""

    why: str


# A key of ours; or a function of the value and of the whole file, which returns keys of ours.
Rule = str | Aside | Absent | Callable[[Any, Values], Values]


@dataclass(frozen=True)
class Dialect:
    """One program's way of writing a configuration.

    Attributes:
        title: What the program is called.
        rules: Key to rule.
        defaults: What its silence means, in our keys, where ours means something else.
        marks: Keys that only its files have.
    """

    title: str
    rules: Mapping[str, Rule]
    defaults: Callable[[Values], Values]
    marks: frozenset[str]


def words(key: str, table: Mapping[Any, Any]) -> Rule:
    """Return a rule that says a value in our words; a value outside the table has no counterpart."""

    def rule(value: Any, _: Values) -> Values:
        known = value.lower() if isinstance(value, str) else value
        if known not in table:
            raise NoCounterpart(f"{value!r} is not known here")
        return {key: table[known]}

    return rule


def when(**keys: Any) -> Rule:
    """Return a rule of a switch: switched on it is these keys, off it is nothing."""
    return lambda value, _: keys if value else {}


def fixed(*values: Any, why: str) -> Rule:
    """Return a rule that takes these values, which are what is done anyhow, and no others."""

    def rule(value: Any, _: Values) -> Values:
        if value not in values:
            raise NoCounterpart(why)
        return {}

    return rule


def comma(value: Any) -> str:
    """A list as our comma text."""
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def listed(key: str) -> Rule:
    """Return a rule for a list that our key takes as comma text."""
    return lambda value, _: {key: comma(value)}


def entry_name(path: str, taken: Mapping[str, Any]) -> str:
    """A short name for a data set: the last part of its path, with a number if another set has it."""
    name = path.rstrip("/").rpartition("/")[2].partition(".")[0] or "data"
    number, found = 2, name
    while found in taken:
        found, number = f"{name}_{number}", number + 1
    return found
