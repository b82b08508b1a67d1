# SPDX-License-Identifier: Apache-2.0
"""The keeper of one job: a small process that starts its run, takes all it says, and notes how it ended.

It is nobody's child, so that neither the end of the page, of the terminal nor of the runner reaches the run. Its own
sudden end does: the run is asked to end then, which it does with a checkpoint.
"""

from __future__ import annotations

import ctypes
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from types import FrameType

import psutil

from ..extras import parents
from ..extras.environment import Environment
from ..extras.errors import ConfigError
from ..extras.files import write_json
from ..extras.secrets import mask
from .job import DEVICE_VARIABLES, STEERING, STOPPING, Job
from .log_file import FILE_NAME, RotatedLog, as_shown, read_end
from .processes import began, rest_of_group
from .progress import progress, seconds_a_step
from .store import JobStore

EXIT_FILE = "exit.json"
TICK = 0.5  # seconds between looks at the store and at the run
_AFTER_OUTPUT = 0.1
GRACE = "LLAMABOARD_SAVE_SECONDS"
_GRACE_SECONDS = 8  # and a second or so for the rest, so that all are gone within ten
_GRACE_STEPS = 3  # as many of the run's own steps, where that is longer
_SAVING_SECONDS = 600.0  # for a run that is seen to write its checkpoint
_LINGERING_SECONDS = 2.0  # what a run has started may need this long to end after it
_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


class Keeper:
    """Keeps one job from its start to its end.

    Args:
        store: Where it is told to stop.
        job: The job, claimed by this process.
    """

    def __init__(self, store: JobStore, job: Job) -> None:
        self._store, self._job = store, job
        self._log = RotatedLog(job.folder / FILE_NAME)
        self._asked = False  # by a signal to this process
        self._asked_at: float | None = None

    def keep(self) -> None:
        """Run the job and note its end."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._on_signal)
        try:
            environment = run_environment(self._job, os.environ)
            self._grace: float = Environment(environment).number(GRACE, _GRACE_SECONDS, 0, 86_400)
            self._by_its_steps = not environment.get(GRACE)  # what is given is obeyed
            child = self._start(environment)
        except (OSError, ConfigError) as error:
            self._log.write(f"error: {error}\n".encode())
            self._note(1)
            return
        with suppress(ConfigError):  # the store's disk is full: the run goes on without
            self._store.record_run(self._job.id, child.pid, began(child.pid))
        code = self._watch(child)
        self._note(128 - code if code < 0 else code)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._asked = True

    def _start(self, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
        """Start the run; its output comes through ``self._pipe``.

        The run keeps the end that we read from open too: when we are killed, what it says while it saves its checkpoint
        goes nowhere, instead of ending it.
        """
        self._pipe, theirs = os.pipe()
        os.set_blocking(self._pipe, False)
        argv = [sys.executable, "-P", "-m", "llamafactory", self._job.command]
        try:
            return subprocess.Popen(
                [*argv, str(self._job.config_path.relative_to(self._job.workspace))],
                stdin=subprocess.DEVNULL,
                stdout=theirs,
                stderr=theirs,
                pass_fds=(self._pipe,),
                cwd=self._job.workspace,
                env=environment,
                start_new_session=True,
                preexec_fn=parents.ask_to_end_with_parent,
            )
        finally:
            os.close(theirs)

    def _watch(self, child: subprocess.Popen[bytes]) -> int:
        """Take the run's output until it and all it has started are gone; returns its exit code."""
        looked, ended = 0.0, None
        with selectors.DefaultSelector() as selector:
            selector.register(self._pipe, selectors.EVENT_READ)
            while True:
                if selector.get_map():
                    self._take(selector, TICK)
                else:  # it has closed its output, mostly because it ends
                    time.sleep(_AFTER_OUTPUT)
                self._reap(child)
                now = time.monotonic()
                if child.returncode is not None:
                    ended = ended or now
                    if self._clear(now - ended):
                        break
                elif now - looked >= TICK:
                    looked = now
                    self._look_for_stop(child, now)
            if selector.get_map():  # what it said last
                self._take(selector, 0.0)
        self._log.close()
        return child.returncode

    def _take(self, selector: selectors.BaseSelector, wait: float) -> None:
        if not selector.select(wait):
            return
        for _ in range(64):  # then the clock is looked at
            try:
                data = os.read(self._pipe, 65536)
            except BlockingIOError:
                return
            if not data:
                selector.unregister(self._pipe)
                return
            self._log.write(data)

    def _reap(self, child: subprocess.Popen[bytes]) -> None:
        """Collect the run's exit code, and those of its children's children that have become ours."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == child.pid:
                child.returncode = os.waitstatus_to_exitcode(status)

    def _look_for_stop(self, child: subprocess.Popen[bytes], now: float) -> None:
        """Ask the run to end if that is wanted; end it when it has not in time, or when it is wanted at once."""
        try:
            job = self._store.get(self._job.id)
        except ConfigError:  # the store is damaged or gone; the run is not to blame
            job = self._job
        if not (self._asked or job.state == STOPPING):
            return
        if self._asked_at is None:
            self._asked_at = now
            if self._by_its_steps:
                self._grace = max(self._grace, _GRACE_STEPS * seconds_a_step(progress(job)))
            child.send_signal(signal.SIGTERM)  # to the run alone: it asks its own processes, once
        waited = now - self._asked_at
        late = waited >= self._grace and not (waited < _SAVING_SECONDS and self._is_saving())
        if late or job.stops > 1:
            _kill_all()

    def _is_saving(self) -> bool:
        """Whether a checkpoint is being written: a folder that has not its name yet."""
        folder = self._job.output_dir
        if folder is None or self._job.started is None:
            return False
        try:
            with os.scandir(folder) as entries:
                names = [entry for entry in entries if entry.name.startswith(".staging-")]
                return any(entry.stat().st_mtime >= self._job.started for entry in names)
        except OSError:
            return False

    def _clear(self, waited: float) -> bool:
        """Whether nothing is left of an ended run; what takes too long to end is killed."""
        if not rest_of_group(psutil.Process()):
            return True
        if waited >= _LINGERING_SECONDS:
            _kill_all()
        return False

    def _note(self, code: int) -> None:
        """Write the end where whoever is the runner then finds it; a full disk is waited for."""
        end = {"exit_code": code, "ended": time.time(), "message": why(self._job, code) if code else ""}
        for _ in range(720):
            try:
                write_json(self._job.folder / EXIT_FILE, end)
                return
            except OSError:
                time.sleep(5)


def run_environment(job: Job, own: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of a job's run.

    Args:
        job: The job.
        own: The keeper's: all that steers no run is handed on, tokens of hubs too.

    Raises:
        ConfigError: It shall have devices that it cannot have.
    """
    environment = {name: value for name, value in own.items() if name not in STEERING} | job.environment
    environment.setdefault("RECORD_VRAM", "1")  # for whoever looks at its progress
    environment["PYTHONUNBUFFERED"] = "1"  # what it says is seen when it says it
    environment["LLAMABOARD_ENABLED"] = "1"
    environment["LLAMABOARD_WORKDIR"] = str(job.output_dir or job.folder)
    if job.devices:
        for name in DEVICE_VARIABLES:
            environment[name] = _visible(job.devices.split(","), environment.get(name))
    return environment


def _visible(numbers: list[str], before: str | None) -> str:
    """Return the devices of these numbers, counted among those that are visible already."""
    if before is None:
        return ",".join(numbers)
    known = [name.strip() for name in before.split(",") if name.strip()]
    missing = [number for number in numbers if int(number) >= len(known)]
    if missing:
        raise ConfigError(f"devices: {missing[0]} is not there, {len(known)} are visible ({before or 'none'})")
    return ",".join(known[int(number)] for number in numbers)


def why(job: Job, code: int) -> str:
    """Return the line that says why a run failed: of what it said last, the error."""
    lines = [line.strip() for line in as_shown(read_end(job.folder / FILE_NAME, 8000)).splitlines()]
    lines = [line for line in lines if line]
    said = [line for line in lines[-5:] if line.startswith("error: ")]
    if code > 128 and not said:
        name = next((number.name for number in signal.Signals if number == code - 128), f"signal {code - 128}")
        hint = "; the machine may have run out of memory" if name == "SIGKILL" else ""
        return f"ended from outside by {name}{hint}"
    return mask((said or lines or ["it said nothing"])[-1])[:500]


def _kill_all() -> None:
    for process in rest_of_group(psutil.Process()):
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue


def keep(store: JobStore, number: int) -> None:
    """Be the keeper of a job until its end; return at once if it has one, or was cancelled meanwhile."""
    if sys.platform == "linux":  # what outlives its parent becomes ours, so that nothing of a run is out of reach
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
    started = began(os.getpid())
    if started is not None and store.claim(number, os.getpid(), started):
        Keeper(store, store.get(number)).keep()
