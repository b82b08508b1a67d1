# SPDX-License-Identifier: Apache-2.0
"""Processes that outlive their starter, and how one is known again: by its number and when it began.

Linux counts from its own start, which no change of the clock moves; so do we. Both figures are made of two clocks that
are read one after the other, hence the tolerance. A number is not given to another process within that time.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil

from ..extras.errors import ConfigError, writing

_TOLERANCE = 2.0  # seconds


def began(pid: int) -> float | None:
    """Return when a process began, in seconds after the machine did; None if there is none, or only its ended shell."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return process.create_time() - psutil.boot_time()
    except (psutil.NoSuchProcess, psutil.AccessDenied, ValueError, OverflowError):  # a number that no process can have
        return None


def is_alive(pid: int | None, started: float | None) -> bool:
    """Whether the process that had this number and began then still runs."""
    if pid is None or started is None:
        return False
    found = began(pid)
    return found is not None and abs(found - started) < _TOLERANCE


def start_detached(words: list[str], log: Path, cwd: Path) -> None:
    """Start ``python -m llamafactory.jobs`` as nobody's child, in a session of its own.

    Args:
        words: Its arguments.
        log: What it says is added to this file.
        cwd: Its working folder.

    Raises:
        ConfigError: It does not start.
    """
    # -P: a file of the workspace that is called like a module of ours or of Python is not imported.
    argv = [sys.executable, "-P", "-m", "llamafactory.jobs", *words]
    with writing(log), log.open("ab") as file:
        # A session of its own from the start: who kills our process group just after this returns does not reach it.
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, stdout=file, stderr=file, cwd=cwd, check=False, start_new_session=True
        )
    if done.returncode:
        raise ConfigError(f"jobs: a process of their own cannot be started; {log} says why")


def detach() -> None:
    """Go on as nobody's child: the end of whoever started this, or of its terminal, reaches us no more."""
    if os.fork():
        os._exit(0)
    os.setsid()


def rest_of_group(keeper: psutil.Process) -> list[psutil.Process]:
    """Return all that a keeper has started, directly or not, and that still runs."""
    try:
        found = keeper.children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    return [process for process in found if _runs(process)]


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
