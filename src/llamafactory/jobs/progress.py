# SPDX-License-Identifier: Apache-2.0
"""What a person sees of a job: where it stands, its curves, its output, and how it differs from another."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from math import isfinite
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from .job import ACTIVE, QUEUED, Job
from .log_file import FILE_NAME, as_shown, read_end
from .processes import rest_of_group

LOG_NAME = "trainer_log.jsonl"
MOST_POINTS = 1000
_TAIL_BYTES = 2**16  # of a log: holds its last lines, however long the run
# Of a log's line: where and when, no figures of the run.
_PLACES = {"current_steps", "total_steps", "epoch", "percentage", "elapsed_time", "remaining_time", "total_tokens"}

_NUMBERS = (int, float)  # not bool, which is an int too

Points = list[tuple[int, float]]
Curves = dict[str, Points]


class Cursor(NamedTuple):
    """How far a log was read: which file, and to which byte."""

    file: int = 0
    offset: int = 0


@dataclass(frozen=True)
class Log:
    """What a log has to say since it was last read.

    Attributes:
        rows: Its new lines; damaged ones are left out.
        cursor: Where to go on.
        fresh: ``rows`` is the log from its beginning: what was read before is to be forgotten.
    """

    rows: list[dict[str, Any]]
    cursor: Cursor
    fresh: bool


@dataclass(frozen=True)
class Progress:
    """Where a job stands; what is not known is None.

    Attributes:
        step: Steps done.
        total: Steps in all.
        percentage: From 0 to 100.
        elapsed: Since training began, as the run says it (h:mm:ss).
        remaining: Likewise, until its end.
        throughput: Tokens a second.
        memory: GiB: of the device as the run says it, else of the run's processes while it runs.
        loss: The last training loss.
        eval_loss: The last loss of the evaluation set.
        lr: The last learning rate.
        epoch: Epochs done.
        seconds: Since the job was started.
    """

    step: int | None = None
    total: int | None = None
    percentage: float | None = None
    elapsed: str | None = None
    remaining: str | None = None
    throughput: float | None = None
    memory: float | None = None
    loss: float | None = None
    eval_loss: float | None = None
    lr: float | None = None
    epoch: float | None = None
    seconds: float | None = None


def moment(seconds: float | None) -> str | None:
    """A point in time, by the clock of this machine; None of none."""
    return None if seconds is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def clock(seconds: float) -> str:
    """A span of time as h:mm:ss."""
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}"


def seconds_a_step(seen: Progress) -> float:
    """How long the steps of a run have taken so far, each; 0 where it has logged none."""
    found = re.fullmatch(r"(?:(\d+) days?, )?(\d+):(\d\d):(\d\d)", seen.elapsed or "")
    if found is None or not seen.step:
        return 0.0
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return (((days * 24 + hours) * 60 + minutes) * 60 + seconds) / seen.step


_FIELDS = {
    "step": "current_steps", "total": "total_steps", "percentage": "percentage", "elapsed": "elapsed_time",
    "remaining": "remaining_time", "throughput": "throughput", "memory": "vram_reserved", "loss": "loss",
    "eval_loss": "eval_loss", "lr": "lr", "epoch": "epoch",
}  # fmt: skip


def log_path(job: Job) -> Path | None:
    """Return the file of a job's curve: what was kept of it when it ended, else the run's own.

    A queued job has none, and an earlier run's in the same folder is not its own.
    """
    kept = job.folder / LOG_NAME
    if kept.is_file():
        return kept
    if job.output_dir is None or job.started is None:
        return None
    path = job.output_dir / LOG_NAME
    try:
        return path if path.stat().st_mtime >= job.started else None
    except OSError:
        return None


def read_log(folder: Path | None, after: Cursor = Cursor()) -> Log:  # noqa: B008 (immutable)
    """Read what a log has got since it was last read; a line that is being written waits for the next time.

    Args:
        folder: Of a run's results, or the log itself; None has nothing to say.
        after: The cursor of the last reading.
    """
    if folder is None:
        return Log([], Cursor(), after != Cursor())
    path = folder / LOG_NAME if folder.is_dir() else folder
    try:
        with path.open("rb") as file:
            state = os.fstat(file.fileno())
            # A resumed run puts another file in its place; one that became shorter was written anew.
            fresh = after.file != state.st_ino or after.offset > state.st_size
            start = 0 if fresh else after.offset
            file.seek(start)
            data = file.read()
    except OSError:
        return Log([], Cursor(), after != Cursor())
    whole = data[: data.rfind(b"\n") + 1]
    return Log(_rows(whole.splitlines()), Cursor(state.st_ino, start + len(whole)), fresh)


def _rows(lines: Sequence[bytes]) -> list[dict[str, Any]]:
    try:
        rows = json.loads(b"[%b]" % b",".join(lines))  # at once, which takes half the time
    except (ValueError, RecursionError):
        rows = [row for line in lines for row in _row(line)]
    return [row for row in rows if isinstance(row, dict) and isinstance(row.get("current_steps"), int)]


def _row(line: bytes) -> list[Any]:
    try:
        return [json.loads(line)]
    except (ValueError, RecursionError):
        return []


def progress(job: Job) -> Progress:
    """Return where a job stands; reads the end of its log only, and nothing for one that waits."""
    if job.state == QUEUED:
        return Progress()
    known: dict[str, Any] = {}
    for row in reversed(_last_rows(log_path(job))):
        known = row | known
        if known.keys() >= {"loss", "lr"}:
            break
    values = {name: known.get(key) for name, key in _FIELDS.items()}
    if values["memory"] is None and job.state in ACTIVE:
        values["memory"] = _memory_of(job)
    if job.started is not None:
        values["seconds"] = (job.ended or time.time()) - job.started
    return Progress(**values)


def _last_rows(path: Path | None) -> list[dict[str, Any]]:
    try:
        with (path or Path("/dev/null")).open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL_BYTES))
            lines = file.read().splitlines()
    except OSError:
        return []
    return _rows(lines)  # the first line may be cut off: then it is no JSON, and left out


def _memory_of(job: Job) -> float | None:
    """Memory of all processes of a run, in GiB; pages they share count for each."""
    if job.pid is None:
        return None
    total = 0
    try:
        for process in rest_of_group(psutil.Process(job.pid)):
            total += process.memory_info().rss
    except psutil.Error:
        return None
    return round(total / 2**30, 2) if total else None


@dataclass
class Curve:
    """The curves of a job, read bit by bit; ask again for what has come since.

    Attributes:
        job: The job, as it was last seen; may be replaced.
        series: Name of a figure to its points (step, value).
    """

    job: Job
    series: Curves = field(default_factory=dict)
    _cursor: Cursor = field(default_factory=Cursor)

    def update(self) -> bool:
        """Read on; returns whether something has changed."""
        log = read_log(log_path(self.job), self._cursor)
        changed = bool(log.rows) or (log.fresh and bool(self.series))
        if log.fresh:
            self.series = {}
        self._cursor = log.cursor
        for name, points in _series(log.rows).items():
            self.series.setdefault(name, []).extend(points)
        return changed


def curves(job: Job, most: int = MOST_POINTS) -> Curves:
    """Return the curves of a job, each in at most so many points; a log that has not changed is not read again."""
    path = log_path(job)
    try:
        state = os.stat(path or "")
    except OSError:
        return {}
    assert path is not None
    return dict(_thin_curves(path, (state.st_ino, state.st_size, state.st_mtime_ns), most))


@lru_cache(256)
def _thin_curves(path: Path, version: tuple[int, int, int], most: int) -> Curves:
    return {name: thin(points, most) for name, points in _series(read_log(path).rows).items()}


def _series(rows: Sequence[dict[str, Any]]) -> Curves:
    """Return the points of each figure in rows of a log; values that are no finite numbers are left out."""
    found = {}
    for name in dict.fromkeys(name for row in rows for name in row if name not in _PLACES):
        pairs = [(row["current_steps"], row[name]) for row in rows if name in row]
        points = [(step, float(value)) for step, value in pairs if type(value) in _NUMBERS and isfinite(value)]
        if points:
            found[name] = points
    return found


def thin(points: Points, most: int = MOST_POINTS) -> Points:
    """Return a curve in at most ``most`` points: first, last, and of each stretch between its lowest and highest.

    >>> thin([(1, 5.0), (2, 9.0), (3, 1.0), (4, 4.0), (5, 3.0), (6, 2.0)], 4)
    [(1, 5.0), (2, 9.0), (3, 1.0), (6, 2.0)]
    """
    if len(points) <= most:
        return points
    stretches, inner, value = max(1, (most - 2) // 2), points[1:-1], itemgetter(1)
    kept = [points[0]]
    for number in range(stretches):
        part = inner[number * len(inner) // stretches : (number + 1) * len(inner) // stretches]
        kept += sorted({min(part, key=value), max(part, key=value)})
    return [*kept, points[-1]]


def overlay(jobs: Sequence[Job], most: int = MOST_POINTS) -> dict[str, Curves]:
    """Return figure -> job -> points, for figures of one kind in one plot; a job is named "<number> <name>"."""
    found: dict[str, Curves] = {}
    for job in jobs:
        for name, points in curves(job, most).items():
            found.setdefault(name, {})[f"{job.id} {job.name}"] = points
    return found


def difference(one: Job, other: Job) -> list[tuple[str, Any, Any]]:
    """Return the keys in which two configurations differ, with both values; None where a key is not given."""
    keys = dict.fromkeys([*one.config, *other.config])
    pairs = ((key, one.config.get(key), other.config.get(key)) for key in keys)
    found = [(key, mine, theirs) for key, mine, theirs in pairs if mine != theirs]
    return found if one.command == other.command else [("command", one.command, other.command), *found]


def tail(job: Job, chars: int = 20_000) -> str:
    """Return the end of a job's output as a terminal would show it."""
    return as_shown(read_end(job.folder / FILE_NAME, 4 * chars))[-chars:]
