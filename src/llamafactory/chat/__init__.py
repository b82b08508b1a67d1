# SPDX-License-Identifier: Apache-2.0
"""Engines that answer conversations, and ``ChatModel`` in front of them, loaded on first use."""

from __future__ import annotations

from ..extras.lazy import exports

__getattr__ = exports(__name__, {"ChatModel": "chat_model"})
