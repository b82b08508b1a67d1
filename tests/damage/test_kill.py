# SPDX-License-Identifier: Apache-2.0
"""``kill -9`` at random moments: no process stays, no file looks whole and is not, the rerun ends as if undisturbed."""

from __future__ import annotations

import contextlib
import json
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import pytest
from safetensors.torch import load_file

from .world import EXPORT, GRPO, INFER, SFT, World

pytestmark = pytest.mark.slow
SAVING = ("max_steps=6", "save_strategy=steps", "save_steps=2", "seed=3", "dataloader_num_workers=1")


@dataclass(frozen=True)
class Job:
    """A command that is killed.

    Attributes:
        words: Of the command line.
        made: What it leaves: a folder or a file.
        kills: At how many moments.
        result: What must be the same after a rerun.
    """

    words: tuple[str, ...]
    made: str
    kills: int
    result: Callable[[Path], object]


def _weights(folder: Path) -> object:
    files = sorted(folder.glob("*.safetensors"))
    assert files, sorted(folder.iterdir())
    return {name: value.tolist() for file in files for name, value in load_file(file).items()}


def _rows(folder: Path) -> object:
    from datasets import load_from_disk

    return load_from_disk(str(folder))["train"].to_list()


def _answers(file: Path) -> object:
    return file.read_text()


JOBS = {
    "train": Job((*SFT, *SAVING, "output_dir=made"), "made", 10, _weights),
    "stream": Job((*SFT, *SAVING, "output_dir=made", "streaming=true"), "made", 8, _weights),
    "packed": Job((*SFT, *SAVING, "output_dir=made", "packing=true", "cutoff_len=64"), "made", 8, _weights),
    "preprocess": Job(
        ("preprocess", *SFT[1:], "tokenized_path=made", "preprocessing_num_workers=2"), "made", 10, _rows
    ),
    "infer": Job((*INFER, "save_name=made.jsonl", "max_samples=12", "max_new_tokens=20"), "made.jsonl", 8, _answers),
    "export": Job((*EXPORT, "adapter_name_or_path=adapter", "export_dir=made"), "made", 8, _weights),
    "rollouts": Job((*GRPO, "max_steps=4", *SAVING[1:3], "save_steps=1", "output_dir=made"), "made", 8, _weights),
}


class Starter:
    """Runs commands in a world, to their end or not."""

    def __init__(self, world: World, log: Path) -> None:
        self.world, self.log = world, log
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("starter.py"))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        )  # fmt: skip

    def run(self, words: tuple[str, ...], seconds: float = 300.0) -> tuple[int, int]:
        """Run a command, killed after so many seconds; returns its exit code and its session."""
        assert self._process.stdin is not None and self._process.stdout is not None
        asked = {"words": words, "folder": str(self.world.folder), "log": str(self.log)}
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        number = int(self._process.stdout.readline())
        if not select.select([self._process.stdout], [], [], seconds)[0]:
            os.kill(number, signal.SIGKILL)
        return int(self._process.stdout.readline()), number

    def run_whole(self, words: tuple[str, ...]) -> float:
        """Run to the end; returns the seconds it took."""
        began = time.monotonic()
        code, _ = self.run(words)
        assert code == 0, self.log.read_text()[-3000:]
        return time.monotonic() - began

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)


@pytest.fixture
def starter(world: World, tmp_path: Path) -> Iterator[Starter]:
    made = Starter(world, tmp_path / "log")
    yield made
    made.close()


def left_behind(session: int, seconds: float = 20.0) -> list[str]:
    """Wait until nobody of a session is there; return the command lines of those who are."""
    end = time.monotonic() + seconds
    while (found := _members(session)) and time.monotonic() < end:
        time.sleep(0.1)
    return [" ".join(process.cmdline())[-200:] for process in found]


def _members(session: int) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def _read_lines(path: Path) -> None:
    """A log may end in the middle of a line, as who goes on with it knows; no line before it is broken."""
    for line in path.read_bytes().split(b"\n")[:-1]:
        json.loads(line)


def _read_arrow(path: Path) -> None:
    import pyarrow as pa

    with pa.memory_map(str(path)) as file:
        is_feather = file.read(6) == b"ARROW1"
        file.seek(0)
        (pa.ipc.open_file if is_feather else pa.ipc.open_stream)(file).read_all().validate(full=True)


def _read_torch(path: Path) -> None:
    import torch

    torch.load(path, weights_only=False)


READERS: dict[str, Callable[[Path], object]] = {
    ".safetensors": load_file, ".json": lambda path: json.loads(path.read_bytes()), ".jsonl": _read_lines,
    ".arrow": _read_arrow, ".pt": _read_torch, ".pth": _read_torch, ".bin": _read_torch,
    ".npy": np.load, ".jinja": lambda path: path.read_text("utf-8").index("}"),
}  # fmt: skip


def broken_files(folder: Path) -> list[str]:
    """Files under a final name that the library which reads them cannot read to their end."""
    found = []
    for path in folder.rglob("*"):
        if any(part.startswith(".") for part in path.relative_to(folder).parts) or not path.is_file():
            continue
        try:
            READERS.get(path.suffix, Path.read_bytes)(path)
        except Exception as error:
            found.append(f"{path}: {error!r}")
    return found


@pytest.mark.parametrize("name", JOBS)
def test_kill_at_random_moments(world: World, starter: Starter, name: str) -> None:
    job = JOBS[name]
    made = world.folder / job.made
    starter.run_whole(job.words)  # the first one fills what processes share
    runs = []
    for _ in range(2):
        _clear(world, made)
        runs.append(starter.run_whole(job.words))
    seconds = min(runs)
    wanted, listed = job.result(made), _listing(world.folder)
    draw, killed = random.Random(name), 0
    for number in range(job.kills):
        _clear(world, made)
        moment = seconds * draw.uniform(0.02, 0.95)
        place = f"{name} {number}: killed after {moment:.2f} of {seconds:.2f} s"
        code, session = starter.run(job.words, moment)
        killed += code == -signal.SIGKILL
        assert left_behind(session) == [], place
        assert broken_files(world.folder) == [], place
        if name in ("export", "preprocess") and made.exists():
            assert job.result(made) == wanted, place
        if code != 0:
            starter.run_whole(job.words)
        assert job.result(made) == wanted, place
        assert _listing(world.folder) == listed, place
    assert 2 * killed >= job.kills, "most runs were over before their moment came: the machine is busy"
    print(f"{name}: {killed} of {job.kills} killed while at work")


def _clear(world: World, made: Path) -> None:
    if made.is_dir():
        shutil.rmtree(made)
    made.unlink(missing_ok=True)
    made.with_name(f".{made.name}.settings.json").unlink(missing_ok=True)
    shutil.rmtree(world.folder / "own-cache", ignore_errors=True)


def _listing(folder: Path) -> list[str]:
    """Every file and folder there is; what was compiled does not count."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if "__pycache__" not in path.parts)
