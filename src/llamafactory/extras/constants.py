# SPDX-License-Identifier: Apache-2.0
"""``SUPPORTED_MODELS``, where scripts of others look for it; the catalogue itself is ``model/catalogue``."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def __getattr__(name: str) -> Any:
    if name != "SUPPORTED_MODELS":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return import_module("llamafactory.model.catalogue.catalogue").supported_models()
