# SPDX-License-Identifier: Apache-2.0
"""Reading along with a job's output until it ends, through the changes of its file."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from .job import UNFINISHED, Job
from .log_file import FILE_NAME
from .progress import tail
from .runner import ensure_runner
from .store import JobStore

POLL = 0.3  # seconds
_LOOK = 2.0  # seconds between looks at the runner


def follow(store: JobStore, job: Job, show: Callable[[str], None]) -> Job:
    """Show a job's output, from its last lines on, until it has ended.

    Args:
        store: The workspace's.
        job: The job.
        show: Takes text.

    Returns:
        The job as it ended.
    """
    path, looked = job.folder / FILE_NAME, 0.0
    file: BinaryIO | None = None
    try:
        if path.exists():
            file = path.open("rb")
            place = file.seek(0, os.SEEK_END)
            show(tail(job))
            file.seek(place)
        while True:
            job = store.get(job.id)  # before reading: an ended job says nothing more
            if file is None and path.exists():
                file = path.open("rb")
            if file is not None:
                file = _read_on(file, path, show)
            if job.state not in UNFINISHED:
                return job
            if time.monotonic() - looked >= _LOOK:
                looked = time.monotonic()
                ensure_runner(store.workspace)
            time.sleep(POLL)
    finally:
        if file is not None:
            file.close()


def _read_on(file: BinaryIO, path: Path, show: Callable[[str], None]) -> BinaryIO:
    """Show what has come; when a new file has been begun, the old one's rest and then that."""
    while True:
        # Looked at first: what is in the old file once there is a new one, is all.
        is_old = not os.path.samestat(os.fstat(file.fileno()), os.stat(path))
        data = file.read()
        if data:
            show(data.decode("utf-8", "replace"))
        if not is_old:
            return file
        file.close()
        file = path.open("rb")
