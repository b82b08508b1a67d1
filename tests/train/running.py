# SPDX-License-Identifier: Apache-2.0
"""Run a training, in this process or another, and read what it left."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

RUNNER = Path(__file__).parent / "runner.py"


def train(given: dict[str, Any], callbacks: list[Any] | None = None) -> Path:
    """Train in this process and return the output folder."""
    from llamafactory.train.tuner import run_exp

    run_exp(given, callbacks)
    return Path(given["output_dir"])


def train_elsewhere(
    given: dict[str, Any], ranks: int = 0, restarts: int = 0, **env: str
) -> subprocess.CompletedProcess[str]:
    """Train in another process (``ranks`` > 0: under torchrun) through ``runner.py``, which can kill itself."""
    launcher = (
        ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", f"--max-restarts={restarts}"]
        if ranks
        else []
    )
    return subprocess.run(
        [sys.executable, *launcher, str(RUNNER), json.dumps(given)],
        env={**os.environ, "OMP_NUM_THREADS": "1", **env},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


def log_of(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of trainer_log.jsonl."""
    return [json.loads(line) for line in (folder / "trainer_log.jsonl").read_text("utf-8").splitlines()]


def curve(folder: Path) -> list[tuple[int, float, float]]:
    """Return (step, loss, gradient norm) of each training log."""
    return [(row["current_steps"], row["loss"], row["grad_norm"]) for row in log_of(folder) if "loss" in row]


def weights_of(folder: Path) -> dict[str, Any]:
    """Return the trained tensors by name."""
    from safetensors.torch import load_file

    adapter = folder / "adapter_model.safetensors"
    return load_file(adapter if adapter.exists() else folder / "model.safetensors")
