# SPDX-License-Identifier: Apache-2.0
"""Rules of the generation keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..field import require

if TYPE_CHECKING:
    from ..args import InferArgs, TrainArgs


def check(args: TrainArgs | InferArgs) -> None:
    """Rules of the generation keys."""
    generating = args.generating
    require(
        generating.max_new_tokens > 0 or generating.max_length > 0, "max_new_tokens and max_length: one must be above 0"
    )
