# SPDX-License-Identifier: Apache-2.0
"""Threads on a CPU follow the cores that are free; what the user says is obeyed."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from llamafactory.extras.errors import ConfigError
from llamafactory.extras.launching import worker_environment
from llamafactory.extras.threads import Threads, Usage, quota, usable_cores
from llamafactory.hparams import get_train_args

_SAY = """
import sys
from llamafactory.extras import threads
import torch
asked = sys.argv[1]
threads.settle(asked if asked == "auto" else int(asked), steady="steady" in sys.argv)
print(torch.get_num_threads())
"""
_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "TORCH_NUM_THREADS")


def _chooser(most: int, ranks: int, seconds: list[tuple[float, float]]) -> Threads:
    """Of a machine on which each second passes with (idle, ours) core-seconds."""
    readings, idle, ours = [Usage(0, 0, 0)], 0.0, 0.0
    for number, (more_idle, more_ours) in enumerate(seconds, start=1):
        idle, ours = idle + more_idle, ours + more_ours
        readings.append(Usage(number, idle, ours))
    return Threads(most, ranks, iter(readings).__next__)


@pytest.mark.parametrize(
    ("most", "ranks", "seconds", "expected"),
    [
        (2, 1, [(0, 2), (0.1, 1.8)], [2, 2]),  # ours alone
        (2, 1, [(0, 1.33), (0, 1), (0, 1)], [1, 1, 1]),  # somebody computes on one core, without end
        (2, 1, [(0, 1), (1, 1), (1, 1), (0, 2)], [1, 1, 2, 2]),  # … and then goes: believed at the second look
        (2, 1, [(0, 1), (1, 1), (0, 1), (1, 1)], [1, 1, 1, 1]),  # … comes and goes
        (2, 1, [(0, 0.2), (0, 0.0)], [1, 1]),  # nothing is free
        (16, 1, [(4, 8)], [12]),  # four cores are taken
        (8, 2, [(0, 16), (2, 10)], [8, 6]),  # two ranks share what is free
    ],
)  # fmt: skip
def test_threads_follow_free_cores(
    most: int, ranks: int, seconds: list[tuple[float, float]], expected: list[int]
) -> None:
    chooser = _chooser(most, ranks, seconds)
    found = []
    for _ in seconds:
        before = chooser.number
        assert chooser.look() == (chooser.number != before)
        found.append(chooser.number)
    assert found == expected


@contextmanager
def _all_cores_taken() -> Iterator[None]:
    """Another process computes on each core."""
    pin = "import os, sys; os.sched_setaffinity(0, {int(sys.argv[1])})\nwhile True: pass"
    spinners = [subprocess.Popen([sys.executable, "-c", pin, str(core)]) for core in usable_cores()]
    try:
        yield
    finally:
        for spinner in spinners:
            spinner.kill()
            spinner.wait()


def _threads(*words: str, **env: str) -> tuple[int, str]:
    """Return what torch computes with in a new process, and what was said."""
    clean = {name: value for name, value in os.environ.items() if name not in _VARIABLES}
    done = subprocess.run(
        [sys.executable, "-c", _SAY, *words], env=clean | env, capture_output=True, text=True, check=True
    )
    return int(done.stdout), done.stderr


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity") or len(usable_cores()) < 2, reason="needs two cores to pin to")
def test_a_busy_machine_gets_one_thread() -> None:
    with _all_cores_taken():
        number, said = _threads("auto")
        fixed, _ = _threads("auto", "steady")
    assert number == 1
    assert "threads: 1; of" in said
    assert fixed > 1, "what full_determinism asks for may not depend on others"


@pytest.mark.slow
def test_a_wish_is_obeyed() -> None:
    assert _threads("2", OMP_NUM_THREADS="1")[0] == 2  # a key wins
    for name in _VARIABLES:
        number, said = _threads("auto", **{name: "3"})
        assert number == 3 and f"threads: 3, as {name} says" in said


def test_workers_share_the_cores_and_still_look(monkeypatch: pytest.MonkeyPatch) -> None:
    given = worker_environment({"NPROC_PER_NODE": "2"})
    assert given["OMP_NUM_THREADS"] == str(max(1, len(usable_cores()) // 2))
    _, said = _threads("auto", **given | {"OMP_NUM_THREADS": "2"})
    assert "OMP_NUM_THREADS" not in said  # our share is no wish of the user's
    assert "LLAMAFACTORY_SHARED_CORES" not in worker_environment({"NPROC_PER_NODE": "2", "OMP_NUM_THREADS": "2"})


@pytest.mark.parametrize(
    ("files", "line", "cores"),
    [
        ({"cpu.max": "150000 100000\n"}, "0::/", 1.5),
        ({"cpu.max": "max 100000\n"}, "0::/", math.inf),
        ({"a/cpu.max": "200000 100000\n", "a/b/cpu.max": "max 100000\n"}, "0::/a/b", 2),  # the parent bounds
        ({"cpu/x/cpu.cfs_quota_us": "300000\n", "cpu/x/cpu.cfs_period_us": "100000\n"}, "4:cpu:/x", 3),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, "1:cpu:/", math.inf),
        ({}, "5:memory:/x", math.inf),
    ],
)  # fmt: skip
def test_quota_of_a_container(tmp_path: Path, files: dict[str, str], line: str, cores: float) -> None:
    for name, text in files.items():
        path = tmp_path / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    groups = tmp_path / "groups"
    groups.write_text(line + "\n")
    assert quota(tmp_path / "cgroup", groups) == cores


@pytest.mark.parametrize("value", [0, -1, "many", 1.5])
def test_bad_numbers_are_refused(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"^threads: expected"):
        get_train_args({"model_name_or_path": "m", "dataset": "identity", "threads": value})


_FIRST_IMPORT = """
import os, sys
from importlib.abc import MetaPathFinder

class Watch(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            names = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
            print(*map(os.environ.get, names))

sys.meta_path.insert(0, Watch())
from llamafactory.cli import main
sys.argv = ["llamafactory-cli", "train", "model_name_or_path=/no/such/model", "dataset=identity", "template=chatml"]
sys.exit(main())
"""


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({"LRU_CACHE_CAPACITY": "7"}, "1000 PASSIVE 64 7"),
        pytest.param({"OMP_WAIT_POLICY": "ACTIVE"}, "None ACTIVE 64 64", marks=pytest.mark.slow),
    ],
)
def test_waiting_and_caches_are_bounded_before_torch_is_loaded(
    tmp_path: Path, env: dict[str, str], expected: str
) -> None:
    ours = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
    clean = {name: value for name, value in os.environ.items() if name not in ours}
    command = [sys.executable, "-c", _FIRST_IMPORT]
    done = subprocess.run(command, env=clean | env, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[0] == expected, done.stderr
