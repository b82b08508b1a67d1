# SPDX-License-Identifier: Apache-2.0
"""Rules of training with Ray, and its settings that may be written as JSON."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from ...extras.environment import is_env_enabled
from ...extras.errors import ConfigError
from ...extras.files import parse_json
from ..field import require

if TYPE_CHECKING:
    from ..args import TrainArgs


def check_training(args: TrainArgs) -> None:
    """Settings that are no mappings or no amounts, and two launchers at once."""
    mapping("ray_init_kwargs", args.ray.ray_init_kwargs)
    amounts(args.ray.resources_per_worker)
    if args.ray.use_ray:
        require(not is_env_enabled("FORCE_TORCHRUN"), "FORCE_TORCHRUN: Ray starts the workers; unset it, or use_ray")
        for name, nothing in (("RDZV_ID", ("",)), ("NNODES", ("", "1"))):
            require(os.environ.get(name, "") in nothing, f"{name}: Ray places the workers; unset it, or use_ray")


def amounts(value: Any) -> dict[str, float]:
    """Return ``resources_per_worker``.

    Raises:
        ConfigError: They are no amounts by name.
    """
    found = mapping("resources_per_worker", value)
    for name, number in found.items():
        if isinstance(number, bool) or not isinstance(number, int | float) or number < 0:
            raise ConfigError(f"resources_per_worker: {name}: expected a number of 0 or more, got {number!r}")
    return found


def mapping(key: str, value: Any) -> dict[str, Any]:
    """Return a mapping that may be written as JSON.

    Raises:
        ConfigError: It is none; names the key.
    """
    if isinstance(value, str):
        value = parse_json(value, key) if value.strip() else {}
    if not isinstance(value, dict | None):
        raise ConfigError(f"{key}: expected a mapping, got {value!r}")
    return value or {}
