# SPDX-License-Identifier: Apache-2.0
"""Rows to messages, messages to segments, segments to batches."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .loader import get_dataset
    from .template_loader import TEMPLATES, get_template, get_template_and_fix_tokenizer, render

__all__ = ["TEMPLATES", "get_dataset", "get_template", "get_template_and_fix_tokenizer", "render"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = ".loader" if name == "get_dataset" else ".template_loader"
    return getattr(import_module(home, __name__), name)
