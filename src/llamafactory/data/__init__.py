# SPDX-License-Identifier: Apache-2.0
"""Rows to messages, messages to segments, segments to batches."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .loader import get_dataset
    from .template_loader import get_template, render

__all__ = ["get_dataset", "get_template", "render"]

_HOMES = {"get_dataset": ".loader", "get_template": ".template_loader", "render": ".template_loader"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name], __name__), name)
