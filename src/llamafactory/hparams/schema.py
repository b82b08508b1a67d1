# SPDX-License-Identifier: Apache-2.0
"""Every key there is: which section or plug-in declares it, with type, default and meaning."""

from __future__ import annotations

import difflib
from dataclasses import MISSING, dataclass, fields
from functools import cache
from typing import Any, get_args, get_type_hints

from .. import plugins
from ..extras.errors import ConfigError
from .aliases import DROPPED, RENAMED, SWITCHED
from .args import SHARED_SECTIONS, TRAINING_SECTIONS
from .coercion import coerce
from .ranges import ANY, Range
from .unbuilt import PLUGIN_KEYS


@dataclass(frozen=True)
class Key:
    """One declared key.

    Attributes:
        hint: Its type, as a typing object.
        default: Its value when it is not given.
        help: One line of meaning.
        comma: It keeps a comma list as one string.
        within: The numbers that it takes.
    """

    name: str
    hint: Any
    default: Any
    help: str
    comma: bool
    within: Range = ANY

    @property
    def takes_text(self) -> bool:
        """Whether any text is a value of it."""
        return str in (self.hint, *get_args(self.hint))

    def read(self, value: Any) -> Any:
        """Return a value with the key's type.

        Raises:
            ConfigError: It has another type, or is a number that the key does not take.
        """
        typed = coerce(self.name, value, self.hint, comma=self.comma)
        if isinstance(typed, int | float) and not isinstance(typed, bool) and typed not in self.within:
            raise ConfigError(self.within.refusal(self.name, typed, value))
        return typed


@cache
def keys_of(section: type) -> dict[str, Key]:
    """Return the keys that one dataclass declares, in the order of declaration."""
    hints = get_type_hints(section)
    found = {}
    for item in fields(section):
        default = item.default_factory() if item.default_factory is not MISSING else item.default
        meta = item.metadata
        found[item.name] = Key(
            item.name,
            hints[item.name],
            default,
            meta.get("help", ""),
            meta.get("comma", False),
            meta.get("within", ANY),
        )
    return found


def tuner_arguments(name: str) -> type:
    """Return the ``Arguments`` dataclass of one tuner."""
    return plugins.resolve("tuners", name).Arguments


def plugin_sections() -> dict[str, type]:
    """Return the ``Arguments`` of every tuner, under its title for the help text; tuners that share them have one."""
    owners: dict[type, list[str]] = {}
    for name in plugins.names("tuners"):
        owners.setdefault(tuner_arguments(name), []).append(name)
    return {f"tuner {', '.join(names)}": section for section, names in owners.items()}


def all_sections() -> dict[str, type]:
    """Return every section of every command and plug-in."""
    return {**SHARED_SECTIONS, **TRAINING_SECTIONS, **plugin_sections()}


def declared_keys() -> dict[str, Key]:
    """Return every key that a section or a tuner declares; of a key of several, the first."""
    found: dict[str, Key] = {}
    for section in all_sections().values():
        for name, key in keys_of(section).items():
            found.setdefault(name, key)
    return found


def known_keys() -> set[str]:
    """Return every key that some command knows."""
    return {*declared_keys(), *PLUGIN_KEYS}


def nearest(key: str) -> str | None:
    """Return the known key most like a mistyped one, or None when none is near."""
    # An older name may be the nearest too; then the key it became is what to write.
    candidates = {name: name for name in known_keys()}
    candidates |= {**RENAMED, **{old: next(iter(new)) for old, new in SWITCHED.items()}}
    found = difflib.get_close_matches(
        key.lower(), [name for name in candidates if name not in DROPPED], n=1, cutoff=0.6
    )
    return candidates[found[0]] if found else None
