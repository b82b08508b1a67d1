# SPDX-License-Identifier: Apache-2.0
"""A run that is killed at once (kill -9) leaves no process behind, whatever kinds of workers it had started."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import pytest
from orphans import MARK, all_gone, processes

from .conftest import Keys

RUNNER = Path(__file__).with_name("runner.py")


@pytest.mark.parametrize(
    "more",
    [
        pytest.param({"dataloader_num_workers": 1}, id="map", marks=pytest.mark.slow),
        pytest.param({"streaming": True, "dataloader_num_workers": 2}, id="streaming", marks=pytest.mark.slow),
    ],
)
def test_loading_processes_end(keys: Keys, more: dict[str, Any]) -> None:
    mark = uuid.uuid4().hex
    environment = {**os.environ, MARK: mark, "KILL_AT": "2", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(RUNNER), json.dumps(keys(max_steps=6, **more))],
        env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=180,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL
    assert all_gone(mark) == []


def test_processes_of_preprocess_end(keys: Keys, tmp_path: Path) -> None:
    """Each row takes its time, so that both are at work when their parent is killed."""
    mark = uuid.uuid4().hex
    code = (
        "import sys, time; from llamafactory.data.prepare import shards\n"
        "shards.SHARD_ROWS = 1\n"
        "def slow(self, samples): time.sleep(60)\n"
        "shards.Encoder.__call__ = slow\n"
        "from llamafactory.train.commands.preprocess import run_preprocess; run_preprocess(sys.argv[1:])"
    )
    given = keys(preprocessing_num_workers=2, tokenized_path=str(tmp_path / "t"))
    words = [f"{key}={value}" for key, value in given.items()]
    child = subprocess.Popen([sys.executable, "-c", code, *words], env={**os.environ, MARK: mark})
    end = time.monotonic() + 120
    while len(processes(mark)) < 3:
        assert child.poll() is None and time.monotonic() < end
        time.sleep(0.1)
    child.kill()
    child.wait()
    assert all_gone(mark) == []


def test_ranks_end_with_the_command(keys: Keys) -> None:
    """The command, torchrun and two ranks; only the command is killed."""
    mark = uuid.uuid4().hex
    words = [f"{key}={value}" for key, value in keys(max_steps=100000, ddp_backend="gloo").items()]
    environment = {
        **os.environ, MARK: mark, "FORCE_TORCHRUN": "1", "NPROC_PER_NODE": "2", "OMP_NUM_THREADS": "1"
    }  # fmt: skip
    child = subprocess.Popen([sys.executable, "-m", "llamafactory", "train", *words], env=environment)
    end = time.monotonic() + 120
    while len(processes(mark)) < 4:
        assert child.poll() is None and time.monotonic() < end
        time.sleep(0.1)
    time.sleep(5)
    child.kill()
    child.wait()
    assert all_gone(mark) == []
