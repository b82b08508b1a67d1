# SPDX-License-Identifier: Apache-2.0
"""A checkpoint from a stranger: state that is a program does not run when training goes on from it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from llamafactory.extras.errors import ConfigError

from .conftest import Keys
from .running import train


class Canary:
    """Unpickling it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_pickled_state_runs_nothing(keys: Keys, tmp_path: Path) -> None:
    settings = keys(max_steps=2, save_strategy="steps", save_steps=1)
    checkpoint = train(settings) / "checkpoint-1"
    for listing in ("checkpoint_files.json", "run_config.json"):
        (checkpoint / listing).unlink()  # a stranger would write ones that fit
    ran = tmp_path / "ran"
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"):
        file = checkpoint / name
        before = file.read_bytes() if file.exists() else None
        assert before is not None or name == "training_args.bin", name
        torch.save({"state": Canary(ran)}, file)
        resumed = settings | {"output_dir": str(tmp_path / name), "resume_from_checkpoint": str(checkpoint)}
        if name == "training_args.bin":
            train(resumed)  # nothing reads it
        else:
            with pytest.raises(ConfigError, match=r"(?i)^resume_from_checkpoint: .*(weights.only|unsafe|unsupported)"):
                train(resumed)
        assert not ran.exists(), name
        if before is None:
            file.unlink()
        else:
            file.write_bytes(before)
    torch.load(_pickle(tmp_path, ran), weights_only=False)
    assert ran.exists()  # so the test above can fail


def _pickle(folder: Path, ran: Path) -> Path:
    torch.save({"state": Canary(ran)}, folder / "canary.pt")
    return folder / "canary.pt"
