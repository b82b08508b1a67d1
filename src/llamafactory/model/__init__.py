# SPDX-License-Identifier: Apache-2.0
"""Tokenizer, weights and tuners: what the other rooms need is exported here, loaded on first use."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_EXPORTS = {
    "can_share_prefixes": "attention",
    "eval_mode": "modes",
    "generation_attention": "attention",
    "is_isolating": "attention",
    "load_model": "loader",
    "load_processor": "processor",
    "load_tokenizer": "tokenizer",
    "make_reference": "reference",
    "resolve_model_path": "paths",
    "without_adapter": "reference",
}


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_EXPORTS[name]}"), name)
