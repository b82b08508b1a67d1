# SPDX-License-Identifier: Apache-2.0
"""How many threads torch computes with on a CPU: as many as cores are free, looked at again while the work goes on.

A matrix product is cut into equal parts, one a thread, and all wait for the last. A thread whose core somebody else
uses comes back milliseconds later, thousands of times a step: with one thread less a step is far faster then.
"""

from __future__ import annotations

import functools
import math
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .environment import Environment
from .logging import get_logger

logger = get_logger(__name__)

SHARED = "LLAMAFACTORY_SHARED_CORES"  # set by our launcher: OMP_NUM_THREADS is this worker's share, not a wish
_WISHES = ("TORCH_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
_SECONDS = 3.0  # between two looks
_FIRST_LOOK = 0.25
_SILENCE = 60.0  # after a change was said
_SPARE = 0.25  # of a core: what a system does now and then


@dataclass(frozen=True)
class Usage:
    """What the cores have done until now: seconds, summed over the cores that this process may use."""

    time: float
    idle: float
    ours: float


class Threads:
    """The number of threads of this process.

    Args:
        most: Never more than these.
        ranks: Processes of the run on this machine.
        read: Reads the usage.
    """

    def __init__(self, most: int, ranks: int, read: Callable[[], Usage]) -> None:
        self.number, self.free = most, float(most)
        self._most, self._ranks, self._read = most, ranks, read
        self._before, self._wanted = read(), most

    def look(self) -> bool:
        """Choose by what was free since the last look; returns whether the number has changed.

        A core that somebody took is left at once; one that is free is used when it was free at two looks.
        """
        before, wanted, number = self._before, self._wanted, self.number
        self._before = now = self._read()
        self.free = (now.idle - before.idle + now.ours - before.ours) / max(now.time - before.time, 1e-9)
        self._wanted = min(self._most, max(1, math.floor((self.free + _SPARE) / self._ranks)))
        self.number = min(self._wanted, max(wanted, number))
        return self.number != number

    @property
    def age(self) -> float:
        """Seconds since the last look."""
        return time.monotonic() - self._before.time


_chosen: Threads | None = None
_said = -math.inf


def settle(asked: int | Literal["auto"], steady: bool = False, env: Mapping[str, str] = os.environ) -> None:
    """Set the number of torch's threads, and say it (imports torch).

    Args:
        asked: The key ``threads``.
        steady: Whether the number may not depend on what other processes do.
        env: Environment variables; a number there is a wish too, unless our launcher wrote it.

    Raises:
        ConfigError: What should be a number there is none.
    """
    global _chosen
    import torch

    cores = _cores_of_torch()
    wish, wished = _wish(env)
    fixed = wished if asked == "auto" else asked
    if fixed is None and _chosen is not None and not steady:
        return
    most = fixed or max(1, math.floor(min(cores, quota())))
    torch.set_num_threads(most)
    _chosen = None
    if fixed is not None:
        logger.info_once("threads: %d, as %s says", fixed, wish if asked == "auto" else "the key threads")
    elif not steady and most > 1:
        _chosen = Threads(most, int(env.get("LOCAL_WORLD_SIZE", "1")), read_usage)
        time.sleep(_FIRST_LOOK)
        _look(_chosen)


def _wish(env: Mapping[str, str]) -> tuple[str, int | None]:
    """Return the variable that says how many threads, and the number; OpenMP knows lists, one number a level."""
    name = next((name for name in _WISHES if env.get(name)), "")
    if not name or (name != "TORCH_NUM_THREADS" and SHARED in env):
        return "", None
    return name, Environment({name: env[name].partition(",")[0].strip()}).number(name, 1, 1, 4096)


def look_again() -> None:
    """Look again if the last look was some seconds ago; to be called often, by the thread that computes."""
    if _chosen is not None and _chosen.age >= _SECONDS:
        _look(_chosen)


def _look(threads: Threads) -> None:
    global _said
    import torch

    changed, now = threads.look(), time.monotonic()
    if changed:
        torch.set_num_threads(threads.number)
    if math.isinf(_said) or (changed and now - _said >= _SILENCE):
        _said = now
        logger.info_rank0("threads: %d; of %d cores %.1f are free", threads.number, len(usable_cores()), threads.free)


@functools.cache
def _cores_of_torch() -> int:
    """What torch would take if nobody told it: a thread for each core, or what OMP_NUM_THREADS says."""
    import torch

    return torch.get_num_threads()


def usable_cores() -> set[int]:
    """Return the numbers of the cores that the kernel lets this process run on."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def read_usage() -> Usage:
    """Read what the cores do now; what the processes of the run on this machine use is ours."""
    import psutil

    cores = usable_cores()
    times = [one for number, one in enumerate(psutil.cpu_times(percpu=True)) if number in cores]
    idle = sum(one.idle + getattr(one, "iowait", 0.0) for one in times)
    this, ours = psutil.Process(), 0.0
    for process in psutil.Process(this.ppid()).children() if "LOCAL_RANK" in os.environ else [this]:
        with suppress(psutil.NoSuchProcess):
            spent = process.cpu_times()
            ours += spent.user + spent.system
    return Usage(time.monotonic(), idle, ours)


def quota(root: Path = Path("/sys/fs/cgroup"), groups: Path = Path("/proc/self/cgroup")) -> float:
    """Return how many cores' time the container of this process gets; infinite when nothing bounds it."""
    least = math.inf
    for line in groups.read_text("utf-8").splitlines() if groups.is_file() else ():
        _, controllers, place = line.split(":", 2)
        if controllers == "" or "cpu" in controllers.split(","):
            home = root / controllers
            group = home / place.strip("/")
            least = min(least, *map(_limit, [group, *group.parents]))
    return least


def _limit(group: Path) -> float:
    """Read ``cpu.max`` (cgroup 2) or the two files of cgroup 1."""
    for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        files = [group / name for name in names]
        if all(file.is_file() for file in files):
            allowed, period = " ".join(file.read_text("utf-8") for file in files).split()
            return int(allowed) / int(period) if allowed.isdecimal() else math.inf
    return math.inf
