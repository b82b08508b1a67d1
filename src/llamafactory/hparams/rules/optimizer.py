# SPDX-License-Identifier: Apache-2.0
"""Rules of the memory-saving optimizers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..field import require

if TYPE_CHECKING:
    from ..args import TrainArgs


def check_training(args: TrainArgs) -> None:
    """At most one of the three, and none with adapters."""
    sections = {"use_galore": args.galore, "use_apollo": args.apollo, "use_badam": args.badam}
    chosen = [key for key, section in sections.items() if getattr(section, key)]
    require(len(chosen) < 2, f"{' and '.join(chosen)}: choose one")
    if chosen:
        require(args.finetuning.finetuning_type != "lora", f"{chosen[0]}: not with finetuning_type lora")
    if chosen and chosen[0] != "use_badam":
        require(args.training.deepspeed is None, f"{chosen[0]}: not with deepspeed")
