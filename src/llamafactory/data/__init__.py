# SPDX-License-Identifier: Apache-2.0
"""Rows to messages, messages to segments, segments to batches."""

from __future__ import annotations

from ..extras.lazy import exports

__getattr__ = exports(
    __name__,
    {
        "TEMPLATES": "template_loader",
        "get_dataset": "loader",
        "get_template": "template_loader",
        "get_template_and_fix_tokenizer": "template_loader",
        "render": "template_loader",
    },
)
