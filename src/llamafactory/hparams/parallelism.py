# SPDX-License-Identifier: Apache-2.0
"""How many processes share a row or a layer, in the words of transformers' and accelerate's users."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .coercion import coerce
from .field import require

CONTEXT = "context_parallel_size"
TENSOR = "tensor_parallel_size"
EXPERT = "expert_parallel_size"
# Names in ``parallelism_config``.
_OTHER_NAMES = {"cp_size": CONTEXT, "sp_size": CONTEXT, "tp_size": TENSOR, "ep_size": EXPERT}


def from_dimensions(values: dict[str, Any]) -> dict[str, Any]:
    """Return keys of ours in the place of ``parallelism_config``, if that says no more.

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
    said: dict[str, dict[str, int]] = {}
    for name, size in sizes.items():
        said.setdefault(_OTHER_NAMES[name], {})[name] = size
    for key, sizes_of in said.items():
        if key in values:
            sizes_of[key] = coerce(key, values[key], int)
        words = " and ".join(f"{name}: {size}" for name, size in sizes_of.items())
        require(len(set(sizes_of.values())) == 1, f"parallelism_config: {words} contradict each other")
    rest = {name: value for name, value in values.items() if name != "parallelism_config"}
    return rest | {key: next(iter(sizes_of.values())) for key, sizes_of in said.items()}
