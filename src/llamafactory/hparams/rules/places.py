# SPDX-License-Identifier: Apache-2.0
"""Rules of the places that commands write to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..field import require

if TYPE_CHECKING:
    from ..args import InferArgs, TrainArgs

_LOCAL = {
    "output_dir": "training", "tokenized_path": "data", "export_dir": "export", "save_name": "infer",
    "save_dir": "evaluation", "task_dir": "evaluation",
}  # fmt: skip


def check(args: TrainArgs | InferArgs) -> None:
    """An address is no place to write to: it would become a folder called after its protocol."""
    for key, section in _LOCAL.items():
        value = getattr(getattr(args, section, None), key, None)
        if key in args.keys and value is not None:
            require("://" not in value, f"{key}: {value} is an address, expected a place on this machine")
