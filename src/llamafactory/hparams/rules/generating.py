# SPDX-License-Identifier: Apache-2.0
"""Ranges of the generation keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..field import require

if TYPE_CHECKING:
    from ..args import InferArgs, TrainArgs


def check(args: TrainArgs | InferArgs) -> None:
    """Ranges of the generation keys."""
    generating = args.generating
    require(generating.temperature >= 0, f"temperature: expected 0 or more, got {generating.temperature}")
    require(0 < generating.top_p <= 1, f"top_p: expected above 0 and at most 1, got {generating.top_p}")
    require(generating.num_beams >= 1, f"num_beams: expected 1 or more, got {generating.num_beams}")
    require(
        generating.repetition_penalty > 0, f"repetition_penalty: expected above 0, got {generating.repetition_penalty}"
    )
    require(generating.max_new_tokens >= 1, f"max_new_tokens: expected 1 or more, got {generating.max_new_tokens}")
    require(generating.max_length >= 1, f"max_length: expected 1 or more, got {generating.max_length}")
