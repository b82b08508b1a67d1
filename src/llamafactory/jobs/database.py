# SPDX-License-Identifier: Apache-2.0
"""The file of the store: SQLite, one transaction a change, and one line for whatever is wrong with it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from ..extras.errors import ConfigError, first_line
from ..extras.files import make_writable

FILE_NAME = "jobs.db"
VERSION = 1
WAIT_SECONDS = 10.0  # for another process's change
_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL,
    command TEXT NOT NULL,
    config TEXT NOT NULL,
    state TEXT NOT NULL,
    position INTEGER NOT NULL,
    devices TEXT NOT NULL,
    environment TEXT NOT NULL,
    created REAL NOT NULL,
    started REAL,
    ended REAL,
    exit_code INTEGER,
    pid INTEGER,
    pid_started REAL,
    run_pid INTEGER,
    run_started REAL,
    stops INTEGER NOT NULL DEFAULT 0,
    message TEXT NOT NULL DEFAULT '',
    parent INTEGER
);
CREATE INDEX IF NOT EXISTS jobs_by_state ON jobs (state, position);
"""
_CURES = {
    sqlite3.SQLITE_FULL: "the disk is full; free some space",
    sqlite3.SQLITE_READONLY: "it cannot be written; have its permissions changed",
    sqlite3.SQLITE_PERM: "it cannot be written; have its permissions changed",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened; have the permissions of its folder changed",
    sqlite3.SQLITE_BUSY: "another process has been writing it for too long; try again",
    sqlite3.SQLITE_IOERR: "it cannot be read or written; the disk may be full or failing",
    sqlite3.SQLITE_NOTADB: "it is no job store; move it away to begin a new history",
    sqlite3.SQLITE_CORRUPT: "it is damaged; move it away to begin a new history",
}


class Database:
    """A connection for each use, so that threads and processes share nothing but the file.

    Args:
        folder: Where the file lies; made when missing.

    Raises:
        ConfigError: It cannot be made, opened or written.
    """

    def __init__(self, folder: Path) -> None:
        make_writable(folder, "workspace")
        self.path = folder / FILE_NAME
        with self._explained():
            self._prepare()

    def _prepare(self) -> None:
        with closing(self._connect()) as connection:
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version > VERSION:
                raise ConfigError(f"{self.path}: was written by a newer version of this program; update it")
            if version < VERSION:
                connection.execute("PRAGMA journal_mode=WAL")  # readers do not wait for a writer; kept in the file
                connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version={VERSION}; COMMIT;")

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=WAIT_SECONDS, isolation_level=None)
        connection.row_factory = sqlite3.Row
        return connection

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the rest of the number says more than a user can use
            raise ConfigError(f"{self.path}: {_CURES.get(code, first_line(error))}") from error

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A connection to read with.

        Raises:
            ConfigError: The file cannot be read.
        """
        with self._explained(), closing(self._connect()) as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A connection inside one transaction, which is undone if the block fails.

        Raises:
            ConfigError: The file cannot be written.
        """
        with self._explained(), closing(self._connect()) as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                if connection.in_transaction:  # a full disk has ended it already
                    connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")
