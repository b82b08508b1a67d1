# SPDX-License-Identifier: Apache-2.0
"""Run a training, in this process or another, and read what it left."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

RUNNER = Path(__file__).parent / "runner.py"
_OURS = ("FORKED_RANKS", "KILL_", "RECORD", "BLOCK_ROWS", "STEP_SECONDS", "PARTS")  # what runner.py itself reads


def train(given: dict[str, Any], callbacks: list[Any] | None = None) -> Path:
    """Train in this process and return the output folder."""
    from llamafactory.train.tuner import run_exp

    run_exp(given, callbacks)
    return Path(given["output_dir"])


def train_elsewhere(
    given: dict[str, Any], ranks: int = 0, restarts: int = 0, **env: str
) -> subprocess.CompletedProcess[str]:
    """Train in other processes through ``runner.py``, which can kill itself; with ``restarts`` under torchrun."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", **env}
    if not restarts:
        return _Forks.run(json.dumps(given), env | ({"FORKED_RANKS": str(ranks)} if ranks else {}))
    launcher = ["torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", f"--max-restarts={restarts}"]
    return subprocess.run(
        [sys.executable, "-m", *launcher, str(RUNNER), json.dumps(given)],
        env=env,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


class _Forks:
    """One process that has imported everything, of which each run is a fork: importing took most of a tiny run."""

    server: subprocess.Popen[str] | None = None
    env: dict[str, str]  # what libraries may have looked at while they were imported

    @classmethod
    def run(cls, keys: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
        early = {name: value for name, value in env.items() if not name.startswith(("PYTEST_", *_OURS))}
        if cls.server is None or cls.server.poll() is not None or cls.env != early:
            if cls.server is not None:
                cls.server.communicate()
            pipe = subprocess.PIPE
            cls.server = subprocess.Popen([sys.executable, str(RUNNER)], env=early, text=True, stdin=pipe, stdout=pipe)
            cls.env = early
        assert cls.server.stdin is not None and cls.server.stdout is not None
        with tempfile.NamedTemporaryFile("r") as stdout, tempfile.NamedTemporaryFile("r") as stderr:
            order = {"keys": keys, "env": env, "cwd": os.getcwd(), "stdout": stdout.name, "stderr": stderr.name}
            cls.server.stdin.write(json.dumps(order) + "\n")
            cls.server.stdin.flush()
            code = int(cls.server.stdout.readline())
            return subprocess.CompletedProcess([keys], code, stdout.read(), stderr.read())


def record_batches(path: Path) -> Callable[[], None]:
    """Write every sequence that is trained on to a file of this rank; returns what ends that."""
    from llamafactory.train.trainer import Trainer

    plain = Trainer.get_batch_samples

    def recorded(self: Any, iterator: Any, number: int, device: Any) -> Any:
        batches, items = plain(self, iterator, number, device)
        with path.with_suffix(f".{self.args.process_index}").open("a") as file:
            for batch in batches:
                file.write(json.dumps([self.state.epoch, sequences_of(batch)]) + "\n")
        return batches, items

    def undo() -> None:
        Trainer.get_batch_samples = plain

    Trainer.get_batch_samples = recorded
    return undo


def sequences_of(batch: dict[str, Any]) -> list[list[list[int]]]:
    """Cut a batch without padding into ``[input_ids, labels]`` of its sequences; a filler has none."""
    ids, labels, ends = (batch[name].flatten().tolist() for name in ("input_ids", "labels", "cu_seqlens"))
    found = [[ids[a:b], labels[a:b]] for a, b in pairwise(ends)]
    return [one for one in found if any(label != -100 for label in one[1])]


def recorded_rows(path: Path) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Return the sequences of all ranks' files."""
    lines = [json.loads(line) for file in path.parent.glob(f"{path.stem}.*") for line in file.read_text().splitlines()]
    return [(tuple(ids), tuple(labels)) for _, some in lines for ids, labels in some]


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


def copied(saved: tuple[dict[str, Any], Path], place: Path) -> dict[str, Any]:
    """Copy a run and return its keys, to go on in the copy."""
    settings, run = saved
    shutil.copytree(run, place)
    return settings | {"output_dir": str(place)}


def first_half(whole: Path, place: Path, last: int) -> None:
    """Copy a finished run as if it had been killed before its ``last`` checkpoint."""
    shutil.copytree(whole, place)
    shutil.rmtree(place / f"checkpoint-{last}")
    for path in (*place.glob("adapter_*"), *place.glob("model.safetensors")):
        path.unlink()


def rates_of(run: Path) -> dict[int, float]:
    """Return the learning rate logged at each step."""
    return {row["current_steps"]: row["lr"] for row in log_of(run) if "loss" in row and row["loss"] is not None}


def assert_bit_equal(one: Path, other: Path) -> None:
    """Two runs have the same weights and the same log, times apart."""
    import torch

    theirs = weights_of(other)
    for name, weight in weights_of(one).items():
        assert torch.equal(weight, theirs[name]), name
    assert curve(one) == curve(other)
    times = ("elapsed_time", "remaining_time", "throughput", "data_wait")
    ours, others = ([{k: v for k, v in row.items() if k not in times} for row in log_of(run)] for run in (one, other))
    assert ours == others
