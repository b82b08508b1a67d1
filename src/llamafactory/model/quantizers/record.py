# SPDX-License-Identifier: Apache-2.0
"""What the run of an adapter noted about the weights below it."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from ...extras.errors import ConfigError
from ...extras.files import read_json
from ...extras.manifest import NAME as MANIFEST

_OF_CHECKPOINT = "run_config.json"


def trained_over(folder: str | Path) -> str | None:
    """In how many bits the weights below an adapter were held in its training, such as ``4 bits (bnb)``.

    Args:
        folder: Of the adapter: what a run left, or one of its checkpoints.

    Returns:
        ``None`` where they were whole, or nothing is noted.
    """
    settings: dict[str, Any] = {}
    with suppress(ConfigError, AttributeError):  # an adapter from elsewhere has no such notes, and needs none
        if (Path(folder) / _OF_CHECKPOINT).is_file():
            settings = read_json(Path(folder) / _OF_CHECKPOINT, dict)
        elif (Path(folder) / MANIFEST).is_file():
            settings = read_json(Path(folder) / MANIFEST, dict).get("config", {}).get("quantization", {})
    bits, method = settings.get("quantization_bit"), settings.get("quantization_method")
    return f"{bits} bits ({method})" if bits else None
