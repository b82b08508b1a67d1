# SPDX-License-Identifier: Apache-2.0
"""A workspace whose jobs are real processes; none of them outlives its test."""

from __future__ import annotations

import json
import random
import sqlite3
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from orphans import MARK, all_gone, processes

from llamafactory.jobs import Job, JobStore
from llamafactory.jobs.job import UNFINISHED

_WORDS = ("river", "story", "star", "number", "fox", "rain", "world", "please")


class Workspace:
    """A folder with a tiny model, rows to train on, and what tests do with its jobs."""

    def __init__(self, folder: Path, find_model: Callable[[], Path], mark: str) -> None:
        self.folder, self.find_model, self.mark = folder, find_model, mark
        draw = random.Random(0)
        rows = [{"instruction": " ".join(draw.choices(_WORDS, k=6)), "output": draw.choice(_WORDS)} for _ in range(64)]
        (folder / "rows.json").write_text(json.dumps(rows))

    @property
    def model(self) -> Path:
        """Made when it is needed: most of these tests need no torch."""
        return self.find_model()

    @property
    def store(self) -> JobStore:
        return JobStore(self.folder)

    def keys(self, **more: Any) -> dict[str, Any]:
        """Flat keys of a float32 run of five steps, each logged and fast."""
        return {
            "model_name_or_path": str(self.model),
            "dataset": "rows.json",
            "template": "chatml",
            "output_dir": "saves/run",
            "bf16": False,
            "cutoff_len": 64,
            "max_steps": 5,
            "logging_steps": 1,
            "save_strategy": "no",
            "per_device_train_batch_size": 2,
            "use_cpu": True,
            **more,
        }

    def cli(self, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
        """``llamafactory-cli jobs WORDS`` in a process of its own."""
        import os

        return subprocess.run(
            [sys.executable, "-m", "llamafactory", "jobs", *words],
            cwd=self.folder, env={**os.environ, **env}, capture_output=True, text=True, timeout=120,
        )  # fmt: skip

    def wait(self, number: int, what: Callable[[Job], Any], seconds: float = 120.0) -> Job:
        """Wait until something holds of a job; nobody but the test looks, so that the runner does the work."""
        end = time.monotonic() + seconds
        while not what(job := self.store.get(number)):
            assert time.monotonic() < end, (job, self.output(job))
            time.sleep(0.1)
        return job

    def end_of(self, number: int, seconds: float = 120.0) -> Job:
        """Wait for the end of a job."""
        return self.wait(number, lambda job: job.state not in UNFINISHED, seconds)

    def step(self, number: int, step: int) -> Job:
        """Wait until a job's run has logged a step."""
        from llamafactory.jobs.progress import progress

        return self.wait(number, lambda job: (progress(job).step or 0) >= step)

    def output(self, job: Job) -> str:
        path = job.folder / "output.log"
        return path.read_text() if path.exists() else ""

    def runner(self) -> psutil.Process:
        """The runner's process."""
        found = [
            one for one in processes(self.mark) if "llamafactory.jobs" in one.cmdline() and "runner" in one.cmdline()
        ]
        assert len(found) == 1, found
        return found[0]

    def change(self, statement: str, *values: Any) -> None:
        """Write into the store's file, as a test may and nobody else."""
        with sqlite3.connect(self.folder / "llamaboard_cache" / "jobs.db") as connection:
            connection.execute(statement, values)
        connection.close()


@pytest.fixture
def workspace(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workspace]:
    """An empty workspace; at the end of the test, no process of it is left."""
    mark = uuid.uuid4().hex
    monkeypatch.setenv(MARK, mark)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "a folder"
    folder.mkdir()
    yield Workspace(folder, lambda: request.getfixturevalue("tiny_llama"), mark)
    all_gone(mark, 0.0)
