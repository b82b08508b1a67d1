# SPDX-License-Identifier: Apache-2.0
"""Rules of the places that commands write to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..field import require

if TYPE_CHECKING:
    from ..args import InferArgs, TrainArgs

_LOCAL = ("output_dir", "tokenized_path", "export_dir", "save_name", "save_dir", "task_dir")


def check(args: TrainArgs | InferArgs) -> None:
    """An address is no place to write to: it would become a folder called after its protocol."""
    for key in _LOCAL:
        value = args.keys.get(key)  # as written: a path made of it has lost one of its slashes
        require("://" not in str(value), f"{key}: {value} is an address, expected a place on this machine")
