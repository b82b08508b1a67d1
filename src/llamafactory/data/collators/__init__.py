# SPDX-License-Identifier: Apache-2.0
"""Features to tensors. Names are resolved on use, so that importing the room costs no torch."""

from __future__ import annotations

import importlib
from typing import Any

_WHERE = {
    "PaddingFreeCollator": "padding_free",
    "PaddedCollator": "padded",
    "PromptCollator": "padded",
    "PairCollator": "completions",
    "FeedbackCollator": "completions",
}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_WHERE[name]}", __name__), name)
