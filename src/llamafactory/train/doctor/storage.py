# SPDX-License-Identifier: Apache-2.0
"""Whether a folder that machines call by one name is one folder: each writes a file, and all look for all of them."""

from __future__ import annotations

import os
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ...extras.line import Line
    from ...hparams import TrainArgs

_SEEN_SECONDS = 5.0  # network disks remember for some seconds what was not there
_PACE_SECONDS = 20.0


def look_at_storage(args: TrainArgs, line: Line) -> tuple[str, str]:
    """Return what was found of ``output_dir``, and what is wrong or "".

    Raises:
        ConfigError: A machine is gone.
    """
    folder, own = Path(str(args.training.output_dir)), args.training.save_on_each_node
    unseen = _unseen(folder, line)
    apart = [(seer, writer) for seer, missing in enumerate(unseen) for writer in missing]
    if own:
        if len(apart) < line.place.nodes * (line.place.nodes - 1):
            return (
                "",
                f"save_on_each_node: true, but machines share output_dir {folder}: each would overwrite the other",
            )
        return "each machine has its own (save_on_each_node)", ""
    if apart:
        seer, writer = apart[0]
        return "", (
            f"output_dir: {line.name(seer)} does not see what {line.name(writer)} writes into {folder}; a run that is "
            "resumed needs storage that all share, or save_on_each_node: true"
        )
    return f"{folder} is shared", ""


def _unseen(folder: Path, line: Line) -> list[list[int]]:
    """Return for each machine the numbers of those whose file it does not see."""
    before = folder.exists()
    token = line.gather(uuid.uuid4().hex, _PACE_SECONDS)[0]
    names = [f".doctor-{token}-{rank}" for rank in range(line.place.nodes)]
    mine = folder / names[line.place.rank]
    try:
        with suppress(OSError):  # a folder that cannot be written is another line; here its file is not seen
            folder.mkdir(parents=True, exist_ok=True)
            mine.touch()
        line.gather(None, _PACE_SECONDS)
        deadline = time.monotonic() + _SEEN_SECONDS
        while True:
            listed = set(os.listdir(folder)) if folder.is_dir() else set()
            missing = [rank for rank, name in enumerate(names) if name not in listed]
            if not missing or time.monotonic() > deadline:
                break
            time.sleep(0.2)
        return line.gather(missing, _PACE_SECONDS)
    finally:
        with suppress(OSError):
            mine.unlink()
            if not before:
                folder.rmdir()
