# SPDX-License-Identifier: Apache-2.0
"""Longer context by scaling the rotary position embedding."""

from __future__ import annotations

import math
from typing import Any

from ..extras.errors import ConfigError
from ..extras.logging import get_logger

logger = get_logger(__name__)


def scale_rope(config: Any, method: str, cutoff_len: int) -> None:
    """Stretch the rotary embedding of ``config`` so that ``cutoff_len`` tokens fit; nothing if they already do.

    The factor is ``ceil(cutoff_len / trained length)``.

    Args:
        config: A transformers config; its ``rope_parameters`` and ``max_position_embeddings`` are changed.
        method: ``linear``, ``dynamic``, ``yarn`` or ``llama3``.
        cutoff_len: Longest sequence in tokens.
    """
    text = config.get_text_config()
    parameters = getattr(text, "rope_parameters", None)
    if not isinstance(parameters, dict) or "rope_theta" not in parameters:
        raise ConfigError(f"rope_scaling: {text.model_type} has no single rotary embedding to scale")
    trained = parameters.get("original_max_position_embeddings") or text.max_position_embeddings
    factor = float(math.ceil(cutoff_len / trained))
    if factor <= 1:
        logger.info_rank0(
            "rope_scaling: cutoff_len %d fits the trained length %d; nothing is scaled", cutoff_len, trained
        )
        return
    scaled = {
        "rope_type": method,
        "rope_theta": parameters["rope_theta"],
        "factor": factor,
        "original_max_position_embeddings": trained,
    }
    if method == "llama3":
        scaled |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    if "partial_rotary_factor" in parameters:
        scaled["partial_rotary_factor"] = parameters["partial_rotary_factor"]
    text.rope_parameters = scaled
    # Beyond this number transformers begins to stretch a dynamic one, which has no other sign of its trained length.
    text.max_position_embeddings = trained if method == "dynamic" else int(trained * factor)
    logger.info_rank0("rope_scaling: %s, factor %g, context %d tokens", method, factor, context_length(config))
    if method == "dynamic":
        logger.warning_rank0(
            "rope_scaling: dynamic: positions follow the longest row of a batch and of those before it, so packed and "
            "resumed runs are not equal to others; linear, yarn and llama3 are"
        )


def context_length(config: Any) -> int | None:
    """The most tokens that a model takes, by its configuration; ``None`` = it does not say."""
    text = config.get_text_config(decoder=True)
    longest: int | None = getattr(text, "max_position_embeddings", None)
    if not longest or longest < 0:  # XLNet writes -1
        return None
    rope = getattr(text, "rope_parameters", None) or {}
    return int(longest * rope["factor"]) if rope.get("rope_type") == "dynamic" else longest


def rope_kinds(config: Any) -> dict[str, int]:
    """The kinds of rotary embedding that a model has, each with the most positions before it was stretched."""
    text = config.get_text_config(decoder=True)
    rope = getattr(text, "rope_parameters", None) or {}
    parts = [part for part in (rope, *rope.values()) if isinstance(part, dict) and "rope_type" in part]
    lengths = (getattr(text, key, None) for key in ("original_max_position_embeddings", "max_position_embeddings"))
    whole: int = next((length for length in lengths if length), 0)
    return {part["rope_type"]: part.get("original_max_position_embeddings") or whole for part in parts}
