# SPDX-License-Identifier: Apache-2.0
"""Processes that do not outlive the one that started them, even when that was killed and could tell nobody."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time

POLL_SECONDS = 1.0
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def end_with_parent() -> None:
    """In a worker process: end as soon as the parent is gone.

    A pipe that breaks is not enough: forked siblings hold copies of its other end, and a worker may wait for anything.
    """
    number, parent = os.getppid(), multiprocessing.parent_process()

    def watch() -> None:
        while os.getppid() == number and (parent is None or parent.is_alive()):
            time.sleep(POLL_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def leave_group() -> None:
    """In a worker process: a signal to the parent's group, such as torchrun's, reaches the parent alone.

    The parent ends its step and saves before it ends, and needs its workers for that.
    """
    if sys.platform != "win32":
        os.setpgid(0, 0)


def ask_to_end_with_parent() -> None:
    """In a child before it becomes another program: let Linux send it SIGTERM when its parent ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
