# SPDX-License-Identifier: Apache-2.0
"""Engines that answer conversations, and :class:`ChatModel` in front of them, loaded on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .chat_model import ChatModel

__all__ = ["ChatModel"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .chat_model import ChatModel

    return ChatModel
