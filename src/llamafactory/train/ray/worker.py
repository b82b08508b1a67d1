# SPDX-License-Identifier: Apache-2.0
"""One worker of Ray Train: the run, as a process under torchrun has it."""

from __future__ import annotations

import os
import sys
import traceback
from typing import Any

from ...extras.errors import shown
from ...extras.secrets import mask


def train_in_worker(config: dict[str, Any]) -> None:
    """Train; Ray has joined the workers and set RANK, LOCAL_RANK, WORLD_SIZE and the like.

    Args:
        config: ``train`` and what it is given; ``notes``, ``argv`` and ``folder`` of who asked for the run.
    """
    import ray

    rank = int(os.environ["RANK"])
    attempt, over = ray.get(config["notes"].begin.remote(rank))
    if over:
        return
    os.environ["TORCHELASTIC_RESTART_COUNT"] = str(attempt)  # from 1 on, the newest checkpoint is where it goes on
    sys.argv = list(config["argv"])  # what the manifest and the next commands are made of
    if os.path.isdir(config["folder"]):
        os.chdir(config["folder"])
    try:
        config["train"](config)
    except Exception as error:
        line = shown(error)
        text = line[0] if line else mask("".join(traceback.format_exception(error)))
        ray.get(config["notes"].fail.remote(rank, text, line is not None))
        raise
