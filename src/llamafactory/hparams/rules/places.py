# SPDX-License-Identifier: Apache-2.0
"""Rules of the places that commands write to."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ..field import require

if TYPE_CHECKING:
    from ..args import InferArgs, TrainArgs

_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+:/")  # a path made of it has lost its second slash
_LOCAL = ("output_dir", "tokenized_path", "export_dir", "save_name", "mine_file", "save_dir", "task_dir")


def check(args: TrainArgs | InferArgs) -> None:
    """An address is no place to write to: it would become a folder called after its protocol."""
    for key in _LOCAL:
        value = str(args.keys.get(key))
        require(not _ADDRESS.match(value), f"{key}: {value} is an address, expected a place on this machine")
