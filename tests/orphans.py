# SPDX-License-Identifier: Apache-2.0
"""Processes that a test has started, found by a mark in their environment, whoever is their parent."""

from __future__ import annotations

import time
from contextlib import suppress

import psutil

MARK = "LLAMAFACTORY_TEST_MARK"


def processes(mark: str) -> list[psutil.Process]:
    """Return all that were started under a mark in their environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.AccessDenied, psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return found


def all_gone(mark: str, seconds: float = 20.0) -> list[str]:
    """Wait until no process has the mark; return the command lines of those that have."""
    end = time.monotonic() + seconds
    while (left := processes(mark)) and time.monotonic() < end:
        time.sleep(0.2)
    names = []
    for process in left:
        with suppress(psutil.NoSuchProcess):  # just now
            names.append(" ".join(process.cmdline())[-200:])
            process.kill()
    return names
