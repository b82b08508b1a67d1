# SPDX-License-Identifier: Apache-2.0
"""``kill -9`` at random moments: no process stays, no file looks whole and is not, the rerun ends as if undisturbed."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.train.test_orphans import MARK, all_gone

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
    "preprocess": Job(("preprocess", *SFT[1:], "tokenized_path=made", "preprocessing_num_workers=2"), "made", 6, _rows),
    "infer": Job((*INFER, "save_name=made.jsonl", "max_samples=12", "max_new_tokens=20"), "made.jsonl", 6, _answers),
    "export": Job((*EXPORT, "adapter_name_or_path=adapter", "export_dir=made"), "made", 6, _weights),
    "rollouts": Job((*GRPO, "max_steps=4", *SAVING[1:3], "save_steps=1", "output_dir=made"), "made", 6, _weights),
}


def start(world: World, words: tuple[str, ...], mark: str, log: Path) -> subprocess.Popen[bytes]:
    environment = {
        **os.environ, MARK: mark, "OMP_NUM_THREADS": "1", "HF_DATASETS_CACHE": str(world.folder / "own-cache"),
        "HF_HUB_OFFLINE": "1",
    }  # fmt: skip
    with log.open("ab") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "llamafactory", *words], cwd=world.folder, env=environment, stdout=file, stderr=file
        )


def run_whole(world: World, words: tuple[str, ...], log: Path) -> float:
    """Run to the end; returns the seconds it took."""
    began = time.monotonic()
    code = start(world, words, "whole", log).wait(300)
    assert code == 0, log.read_text()[-3000:]
    return time.monotonic() - began


def broken_files(folder: Path) -> list[str]:
    """Files under a final name that cannot be read to their end."""
    found = []
    for path in folder.rglob("*"):
        if any(part.startswith(".") for part in path.relative_to(folder).parts) or not path.is_file():
            continue
        try:
            if path.suffix == ".safetensors":
                load_file(path)
            elif path.suffix == ".json":
                json.loads(path.read_bytes())
            elif path.suffix in (".pt", ".pth"):
                import torch

                torch.load(path, weights_only=False)
        except Exception as error:
            found.append(f"{path}: {error!r}")
    return found


@pytest.mark.parametrize("name", JOBS)
def test_kill_at_random_moments(world: World, tmp_path: Path, name: str) -> None:
    job, log = JOBS[name], tmp_path / "log"
    made = world.folder / job.made
    run_whole(world, job.words, log)  # the first one fills caches of compiled code
    _clear(world, made)
    seconds = run_whole(world, job.words, log)
    wanted, listed = job.result(made), _listing(world.folder)
    draw = random.Random(f"{name}")
    for number in range(job.kills):
        _clear(world, made)
        # Starting takes most of the time and writes nothing: two of three moments are in the second half.
        moment = seconds * draw.uniform(0.5 if number % 3 else 0.1, 1.0)
        mark = uuid.uuid4().hex
        child = start(world, job.words, mark, log)
        try:
            child.wait(moment)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        assert all_gone(mark) == [], f"{name} {number}: killed after {moment:.2f} s"
        assert broken_files(world.folder) == [], f"{name} {number}: killed after {moment:.2f} s"
        if name in ("export", "preprocess"):
            assert not made.exists() or job.result(made) == wanted
        if child.returncode != 0:
            run_whole(world, job.words, log)
        assert job.result(made) == wanted, f"{name} {number}: killed after {moment:.2f} s"
        assert _listing(world.folder) == listed, f"{name} {number}: killed after {moment:.2f} s"


def _clear(world: World, made: Path) -> None:
    if made.is_dir():
        shutil.rmtree(made)
    made.unlink(missing_ok=True)
    made.with_name(f".{made.name}.settings.json").unlink(missing_ok=True)
    shutil.rmtree(world.folder / "own-cache", ignore_errors=True)


def _listing(folder: Path) -> list[str]:
    """Every file and folder there is; what was compiled does not count."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if "__pycache__" not in path.parts)
