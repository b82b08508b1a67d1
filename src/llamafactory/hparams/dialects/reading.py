# SPDX-License-Identifier: Apache-2.0
"""A configuration that somebody runs: files of the v1 engine are read as they stand, others are told apart."""

from __future__ import annotations

from ...extras.environment import is_env_enabled
from ...extras.errors import ConfigError
from ...extras.logging import get_logger
from ..reader import Flat
from ..schema import known_keys
from .translation import DIALECTS, recognize, translate

logger = get_logger(__name__)


def in_our_keys(flat: Flat) -> Flat:
    """Return a configuration in our keys: one of the v1 engine is translated, and that is said once.

    Raises:
        ConfigError: A key of it has no counterpart, or the file is another program's.
    """
    known = known_keys()
    if not is_env_enabled("USE_V1") and all(key in known for key in flat.values):
        return flat
    name = recognize(flat.values)
    if not is_env_enabled("USE_V1") and not (name == "v1" and "model" in flat.values):
        if name in ("axolotl", "swift") and len(DIALECTS[name].marks.intersection(flat.values)) > 1:
            raise ConfigError(
                f"a configuration of {DIALECTS[name].title}; `llamafactory-cli convert-config` says it in the keys of "
                "this program"
            )
        return flat
    found = translate(flat.values, "v1", known.__contains__)
    for key, why in found.absent.items():
        raise ConfigError(f"{flat.place(key)}{key}: {why}")
    logger.info_once(
        "a configuration of the v1 engine: it is read as "
        + ", ".join(f"{key}: {value}" for key, value in found.values.items() if key not in flat.values)
    )
    origin = {key: place for key, place in flat.origin.items() if key in found.values}
    return Flat(found.values, origin, flat.empty)
