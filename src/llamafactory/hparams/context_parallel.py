# SPDX-License-Identifier: Apache-2.0
"""How many processes share a row, in the words of transformers' and accelerate's users."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .coercion import coerce
from .field import require

KEY = "context_parallel_size"
_OTHER_NAMES = ("cp_size", "sp_size")


def from_dimensions(values: dict[str, Any]) -> dict[str, Any]:
    """Return keys with the one of context parallelism in the place of ``parallelism_config``, if that says no more.

    Raises:
        ConfigError: Two numbers contradict each other.
    """
    given = values.get("parallelism_config")
    if not isinstance(given, Mapping):
        return values
    sizes = {
        name: coerce(f"parallelism_config: {name}", given[name], int)
        for name in _OTHER_NAMES
        if given.get(name) not in (None, 1)
    }
    if not sizes or any(value not in (None, 1) for name, value in given.items() if name not in _OTHER_NAMES):
        return values
    if KEY in values:
        sizes[KEY] = coerce(KEY, values[KEY], int)
    words = " and ".join(f"{name}: {size}" for name, size in sizes.items())
    require(len(set(sizes.values())) == 1, f"parallelism_config: {words} contradict each other")
    rest = {name: value for name, value in values.items() if name != "parallelism_config"}
    return rest | {KEY: next(iter(sizes.values()))}
