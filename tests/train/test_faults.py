# SPDX-License-Identifier: Apache-2.0
"""A process that is killed at any moment, saves included, changes nothing in what a run ends with.

FAULT_TRIES=<number> says how often each is tried.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from .conftest import Keys
from .running import RUNNER, curve, train_elsewhere, weights_of
from .test_fsdp import FULL

TRIES = int(os.environ.get("FAULT_TRIES", "2"))
STEPS = 24
PLAIN = {"max_steps": STEPS, "save_strategy": "steps", "save_steps": 2, "save_total_limit": 2, "lora_dropout": 0.1}


def _kill_one(launcher: psutil.Process, run: Path, draw: random.Random) -> str:
    """Kill a random worker with signal 9, half of the times while a checkpoint is being written; return when."""
    step, saving = draw.randrange(3, STEPS - 4), draw.random() < 0.5
    deadline = time.monotonic() + 120
    log = run / "trainer_log.jsonl"
    while time.monotonic() < deadline and launcher.is_running():
        done = len(log.read_text().splitlines()) if log.exists() else 0
        if done >= step and (not saving or any(run.glob(".staging-*"))):
            break
        time.sleep(0.001)
    time.sleep(draw.random() * (0.02 if saving else 0.2))
    workers = [one for one in launcher.children(recursive=True) if str(RUNNER) in one.cmdline()]
    killed = draw.choice(sorted(workers, key=lambda one: one.pid))
    killed.kill()
    return f"at step {step}{', saving' * saving}"


@pytest.mark.slow
@pytest.mark.parametrize("beside", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("engine", ["copies", "fsdp"])
def test_killed_at_any_moment(keys: Keys, tmp_path: Path, engine: str, beside: bool) -> None:
    """torchrun starts the workers again from the newest whole checkpoint; the weights are those of a quiet run."""
    kind = {"finetuning_type": "full", **FULL} if engine == "fsdp" else {}
    given = keys(**PLAIN, **kind, per_device_train_batch_size=2, async_save=beside)
    quiet = tmp_path / "quiet"
    assert train_elsewhere(given | {"output_dir": str(quiet)}, ranks=2).returncode == 0
    draw = random.Random(f"{engine}-{beside}")
    for number in range(TRIES):
        run = tmp_path / f"run-{number}"
        words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
        words += ["--max-restarts=2", str(RUNNER), json.dumps(given | {"output_dir": str(run)})]
        env = {**os.environ, "OMP_NUM_THREADS": "1", "STEP_SECONDS": "0.05"}
        with (tmp_path / f"{number}.log").open("w") as log:
            started = subprocess.Popen(words, env=env, stdout=log, stderr=log)
            try:
                when = _kill_one(psutil.Process(started.pid), run, draw)
                code = started.wait(180)
            finally:
                if started.poll() is None:
                    started.kill()
        said = (tmp_path / f"{number}.log").read_text()
        assert code == 0, f"{when}: {said[-3000:]}"
        assert "resuming from" in said, f"{when}: {said[-3000:]}"
        ours, theirs = weights_of(run), weights_of(quiet)
        assert ours.keys() == theirs.keys() and all(bool((ours[name] == theirs[name]).all()) for name in ours), when
        assert [step for step, *_ in curve(run)] == list(range(1, STEPS + 1)), when
