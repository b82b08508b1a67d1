# SPDX-License-Identifier: Apache-2.0
"""The one runner of a workspace: starts what is queued when its devices are free, and notes what has ended.

It keeps nothing in memory that matters. Killed and started again, it finds the running jobs by process number and start
time, and those that ended meanwhile by the note that their keepers left.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import psutil

from ..extras.errors import ConfigError
from ..extras.files import read_json, write_atomic
from ..extras.locks import is_locked, locked
from .job import ACTIVE, CANCELLED, DONE, FAILED, QUEUED, STOPPING, UNFINISHED, Job
from .keeper import EXIT_FILE
from .processes import is_alive, start_detached
from .store import JobStore

POLL = 0.5  # seconds
LOG = "runner.log"
KEPT = ("trainer_log.jsonl", "all_results.json")  # of a run's results; a later run in the same folder replaces them
_LOCK = "runner.lock"
_BEGIN_SECONDS = 20.0  # a keeper that has not begun by then is started again, three times in all
_TRIES = 3
_ORPHAN_SECONDS = 30.0
_WAIT_AFTER_ERROR = 5.0
_MOST_ERRORS = 240  # in a row


def ensure_runner(workspace: Path) -> None:
    """See to it that jobs go on: note what has ended, and start the runner if there is work and none runs.

    Raises:
        ConfigError: The store cannot be read or written, or no process be started.
    """
    if not hasattr(os, "fork"):
        raise ConfigError("jobs: need Linux or macOS; on Windows, use its subsystem for Linux")
    store = JobStore(workspace)
    lock = store.folder / _LOCK
    if is_locked(lock):
        return
    if settle(store):
        start_detached(["runner", str(store.workspace)], store.folder / LOG, store.workspace)


def settle(store: JobStore) -> list[Job]:
    """Note the end of every job that has ended, whoever looks first; returns those that have not."""
    jobs = store.list(UNFINISHED)
    ended = [job for job in jobs if job.pid is not None and _note_end(store, job)]
    return store.list(UNFINISHED) if ended else jobs


def _note_end(store: JobStore, job: Job) -> bool:
    alive = is_alive(job.pid, job.pid_started)  # looked at first: a keeper's last deed is its note
    end = _end_of(job)
    if end is None and not alive and not is_alive(job.run_pid, job.run_started):
        state = CANCELLED if job.state == STOPPING else FAILED
        end = state, None, "its keeper was killed, and with it the run", time.time()
    if end is None:
        return False
    _keep_results(job)
    store.finish(job.id, *end)
    return True


def _end_of(job: Job) -> tuple[str, int | None, str, float] | None:
    path = job.folder / EXIT_FILE
    if not path.is_file():
        return None
    try:
        note = read_json(path)
        code, message, ended = note["exit_code"], str(note["message"]), float(note["ended"])
    except (ConfigError, KeyError, TypeError, ValueError):
        return FAILED, None, f"{path} is damaged, so its end is not known", time.time()
    state = DONE if code == 0 else CANCELLED if job.state == STOPPING else FAILED
    return state, code, message if state == FAILED else "", ended


def _keep_results(job: Job) -> None:
    """Keep the curve and the figures of a training, which the next one in the same folder replaces."""
    if job.output_dir is None or job.command != "train":
        return
    for name in KEPT:
        source = job.output_dir / name
        with suppress(OSError):  # there is none; a full disk keeps nobody from noting the end
            if source.stat().st_mtime >= (job.started or 0.0):  # else it is an earlier run's
                write_atomic(job.folder / name, source.read_bytes())


def startable(queued: Iterable[Job], running: Iterable[Job]) -> list[Job]:
    """Return the queued jobs whose devices are free, first come, first served.

    A job may overtake one that waits only where it takes nothing that the other waits for. No number stands for all
    devices.
    """
    taken: set[str] | None = set()  # None: all
    found = []
    for job in (*running, *queued):
        wanted = set(job.devices.split(",")) if job.devices else None
        free = taken is not None and (not taken if wanted is None else not taken & wanted)
        if job.state not in ACTIVE and free:
            found.append(job)
        taken = None if wanted is None or taken is None else taken | wanted
    return found


class Runner:
    """Runs while there is something to do.

    Args:
        store: The workspace's.
    """

    def __init__(self, store: JobStore) -> None:
        self._store = store
        self._tries: dict[int, tuple[int, float]] = {}
        self._asked: dict[int, float] = {}

    def step(self) -> bool:
        """Look once; returns whether something is left to do."""
        jobs = settle(self._store)
        active = [job for job in jobs if job.state in ACTIVE]
        queued = sorted((job for job in jobs if job.state == QUEUED), key=lambda job: job.position)
        for job in active:
            if job.pid is None:
                self._start_keeper(job)
            elif not is_alive(job.pid, job.pid_started):
                self._end_orphan(job)
        for job in startable(queued, active):
            if self._store.begin(job.id):
                self._start_keeper(job)
        return bool(jobs)

    def _start_keeper(self, job: Job) -> None:
        tries, last = self._tries.get(job.id, (0, 0.0))
        if tries and time.monotonic() - last < _BEGIN_SECONDS:
            return
        if tries >= _TRIES:
            log = self._store.folder / LOG
            self._store.finish(job.id, FAILED, None, f"it could not be started; see {log}", time.time())
            return
        self._tries[job.id] = (tries + 1, time.monotonic())
        words = ["keeper", str(self._store.workspace), str(job.id)]
        start_detached(words, self._store.folder / LOG, self._store.workspace)

    def _end_orphan(self, job: Job) -> None:
        """Its keeper was killed: the run has been asked to end, and is ended when it takes too long."""
        if job.run_pid is None or not is_alive(job.run_pid, job.run_started):
            return
        first = job.id not in self._asked
        since = self._asked.setdefault(job.id, time.monotonic())
        with suppress(psutil.NoSuchProcess):
            run = psutil.Process(job.run_pid)
            if first and sys.platform != "linux":  # there, the system has asked it
                run.terminate()
            elif time.monotonic() - since >= _ORPHAN_SECONDS:
                for process in [*run.children(recursive=True), run]:
                    process.kill()


def run(store: JobStore) -> None:
    """Be the runner of a workspace until nothing is left to do; return at once if there is one."""
    runner, errors = Runner(store), 0
    while store.list(UNFINISHED, limit=1) and errors < _MOST_ERRORS:
        # Looked at once more after the lock is gone: who submits meanwhile sees the lock and starts no other runner.
        try:
            with locked(store.folder / _LOCK, f"workspace: {store.folder}"):
                while runner.step():
                    errors = 0
                    time.sleep(POLL)
        except ConfigError as error:
            print(f"{time.strftime('%F %T')} {error}", file=sys.stderr, flush=True)
            if is_locked(store.folder / _LOCK):
                return  # another one runs
            errors += 1
            time.sleep(_WAIT_AFTER_ERROR)
