# SPDX-License-Identifier: Apache-2.0
"""Tokenizer, weights and tuners: what the other rooms need is exported here, loaded on first use."""

from __future__ import annotations

from ..extras.lazy import exports

__getattr__ = exports(
    __name__,
    {
        "can_share_prefixes": "attention",
        "eval_mode": "modes",
        "generation_attention": "attention",
        "is_isolating": "attention",
        "load_model": "loader",
        "load_processor": "processor",
        "load_tokenizer": "tokenizer",
        "make_reference": "reference",
        "resolve_model_path": "paths",
        "will_isolate": "loader",
        "without_adapter": "reference",
    },
)
