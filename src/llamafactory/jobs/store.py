# SPDX-License-Identifier: Apache-2.0
"""The job store of a workspace: what was asked for, in which order, and what became of it."""

from __future__ import annotations

import json
import shutil
import sqlite3
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ..extras.errors import ConfigError, short, writing
from ..extras.files import make_writable, write_atomic
from .database import Database
from .job import (
    ACTIVE,
    CACHE,
    CANCELLED,
    DONE,
    FAILED,
    OUTPUT_KEYS,
    QUEUED,
    RUNNING,
    STATES,
    STOPPING,
    UNFINISHED,
    Job,
    check_job,
    free_place,
    steering,
)

Jobs = list[Job]  # the class has a method of the name `list`


class JobStore:
    """Every method is one transaction; processes and threads may use the same workspace at the same time.

    Args:
        workspace: The folder that runs work in and paths start from.

    Raises:
        ConfigError: The store cannot be made or opened; one line.
    """

    def __init__(self, workspace: Path) -> None:
        self.workspace = Path(workspace).resolve()
        self.folder = self.workspace / CACHE
        self._database = Database(self.folder)

    def submit(
        self,
        command: str,
        config: Mapping[str, Any],
        *,
        name: str | None = None,
        devices: str = "",
        parent: int | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Job:
        """Put a job at the end of the queue; ``ensure_runner`` sees to it that somebody looks.

        Args:
            command: One of ``job.COMMANDS``.
            config: Flat keys, as in a file.
            name: For people; else the last part of where its results go.
            devices: Numbers of accelerators ("0,1"), "" = all.
            parent: The job it comes from.
            environment: Variables of ``job.STEERING``, over those of this process.

        Raises:
            ConfigError: It can be no job, or the store cannot be written.
        """
        devices = devices.replace(" ", "")
        check_job(command, config, name, devices)
        kept = steering(environment)
        if name is None:
            name = Path(str(config.get(OUTPUT_KEYS[command]) or command)).name[:100] or command
        row = (name, command, json.dumps(dict(config)), QUEUED, devices, json.dumps(kept), time.time(), parent)
        with self._database.writing() as connection:
            number = connection.execute(
                "INSERT INTO jobs (name, command, config, state, devices, environment, created, parent, position) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, (SELECT COALESCE(MAX(position), 0) + 1 FROM jobs))",
                row,
            ).lastrowid
            job = self._one(connection, int(number or 0))
            self._write_config(job)
        return job

    def _write_config(self, job: Job) -> None:
        """Write the file of the run; what a job of this number in a store that was moved away left is removed."""
        shutil.rmtree(job.folder, ignore_errors=True)
        make_writable(job.folder, "workspace")
        with writing(job.config_path):
            write_atomic(job.config_path, yaml.safe_dump(job.config, allow_unicode=True, sort_keys=False))

    def get(self, number: int) -> Job:
        """Return one job.

        Raises:
            ConfigError: There is none of this number.
        """
        with self._database.reading() as connection:
            return self._one(connection, number)

    def list(self, states: Sequence[str] | None = None, limit: int | None = None) -> Jobs:
        """Return jobs, newest first.

        Args:
            states: Only those in one of them.
            limit: At most so many.
        """
        wanted = STATES if states is None else tuple(states)
        marks = ",".join("?" * len(wanted))
        with self._database.reading() as connection:
            rows = connection.execute(
                f"SELECT * FROM jobs WHERE state IN ({marks}) ORDER BY id DESC LIMIT ?",
                (*wanted, -1 if limit is None else limit),
            ).fetchall()
        return [self._job(row) for row in rows]

    def queue(self) -> Jobs:
        """Return what waits, next first."""
        return sorted(self.list([QUEUED]), key=lambda job: job.position)

    def move(self, number: int, up: bool) -> None:
        """Let a queued job change places with the one before it, or after it; the first stays first.

        Raises:
            ConfigError: It is not in the queue.
        """
        with self._database.writing() as connection:
            job = self._one(connection, number)
            if job.state != QUEUED:
                raise ConfigError(f"job {number}: is {job.state}, only queued jobs can be moved")
            side, order = ("<", "DESC") if up else (">", "ASC")
            other = connection.execute(
                f"SELECT id, position FROM jobs WHERE state=? AND position {side} ? ORDER BY position {order} LIMIT 1",
                (QUEUED, job.position),
            ).fetchone()
            if other is not None:
                connection.execute("UPDATE jobs SET position=? WHERE id=?", (other["position"], number))
                connection.execute("UPDATE jobs SET position=? WHERE id=?", (job.position, other["id"]))

    def cancel(self, number: int) -> Job:
        """Take a job out of the queue, or ask its run to save and end; a second time, it is ended at once.

        Raises:
            ConfigError: It has ended already.
        """
        with self._database.writing() as connection:
            job = self._one(connection, number)
            if job.state not in UNFINISHED:
                raise ConfigError(f"job {number}: is {job.state} already")
            begun = job.state in ACTIVE and job.pid is not None
            connection.execute(
                "UPDATE jobs SET state=?, ended=?, stops=stops+1 WHERE id=?",
                (STOPPING if begun else CANCELLED, None if begun else time.time(), number),
            )
            return self._one(connection, number)

    def resume(self, number: int) -> Job:
        """Submit a job that did not come to its end once more; it goes on in its folder from its last checkpoint.

        Raises:
            ConfigError: It has not ended, or is done.
        """
        job = self.get(number)
        if job.state not in (FAILED, CANCELLED):
            more = "; `jobs copy` runs it again" if job.state == DONE else ""
            raise ConfigError(f"job {number}: is {job.state}, only failed and cancelled jobs can be resumed{more}")
        dropped = ("overwrite_output_dir", "resume_from_checkpoint")
        config = {key: value for key, value in job.config.items() if key not in dropped}
        return self._again(job, config, job.name)

    def copy(self, number: int, **changes: Any) -> Job:
        """Submit a job's configuration again, with results in a folder of its own.

        Args:
            number: The job.
            changes: Keys to set; None takes a key away.

        Raises:
            ConfigError: There is no such job, or its copy can be none.
        """
        job = self.get(number)
        config = {key: value for key, value in (job.config | changes).items() if value is not None}
        key = OUTPUT_KEYS[job.command]
        name = job.name
        if key not in changes and key in config:
            taken = {other.config.get(OUTPUT_KEYS[other.command]) for other in self.list()}
            config[key] = free_place(str(config[key]), self.workspace, taken)
            name = Path(config[key]).name
        return self._again(job, config, name)

    def _again(self, job: Job, config: dict[str, Any], name: str) -> Job:
        return self.submit(
            job.command, config, name=name, devices=job.devices, parent=job.id, environment=job.environment
        )

    def remove(self, number: int) -> None:
        """Forget a job and its output; what its run has written to its results' folder stays.

        Raises:
            ConfigError: It runs.
        """
        with self._database.writing() as connection:
            job = self._one(connection, number)
            if job.state in ACTIVE:
                raise ConfigError(f"job {number}: is {job.state}; cancel it first")
            connection.execute("DELETE FROM jobs WHERE id=?", (number,))
        shutil.rmtree(job.folder, ignore_errors=True)

    # What follows is for the runner and the keepers.

    def begin(self, number: int) -> bool:
        """Take a job out of the queue to be started; False if somebody has been quicker."""
        return self._change("state=?, started=?", (RUNNING, time.time()), number, "state=?", (QUEUED,))

    def claim(self, number: int, pid: int, started: float) -> bool:
        """Become the one keeper of a job that was begun; False if it has one, or was cancelled meanwhile."""
        return self._change("pid=?, pid_started=?", (pid, started), number, "state=? AND pid IS NULL", (RUNNING,))

    def record_run(self, number: int, pid: int, started: float | None) -> None:
        """Note which process the run is."""
        self._change("run_pid=?, run_started=?", (pid, started), number, "1", ())

    def finish(self, number: int, state: str, exit_code: int | None, message: str, ended: float) -> bool:
        """Note how a job that was begun has ended; False if that is known already."""
        marks = ",".join("?" * len(ACTIVE))
        values = (state, exit_code, message, ended)
        return self._change("state=?, exit_code=?, message=?, ended=?", values, number, f"state IN ({marks})", ACTIVE)

    def _change(self, what: str, values: tuple[Any, ...], number: int, when: str, known: tuple[Any, ...]) -> bool:
        with self._database.writing() as connection:
            done = connection.execute(f"UPDATE jobs SET {what} WHERE id=? AND {when}", (*values, number, *known))
        return done.rowcount == 1

    def _one(self, connection: sqlite3.Connection, number: int) -> Job:
        row = None
        if 0 < number < 2**63:
            row = connection.execute("SELECT * FROM jobs WHERE id=?", (number,)).fetchone()
        if row is None:
            raise ConfigError(f"job {short(number)}: there is none of this number in {self.folder}")
        return self._job(row)

    def _job(self, row: sqlite3.Row) -> Job:
        values = {key: row[key] for key in row.keys()}  # noqa: SIM118 (a Row iterates over its values)
        values["config"], values["environment"] = json.loads(row["config"]), json.loads(row["environment"])
        return Job(**values, workspace=self.workspace)
