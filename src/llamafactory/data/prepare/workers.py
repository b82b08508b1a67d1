# SPDX-License-Identifier: Apache-2.0
"""One function over many jobs, in threads or in processes; the death of a process names the job that it had."""

from __future__ import annotations

import gc
import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

from ...extras.errors import ConfigError
from ...extras.parents import end_with_parent

Job = TypeVar("Job")
Result = TypeVar("Result")


def map_in_threads(work: Callable[[Job], Result], jobs: Iterator[Job], number: int) -> Iterator[Result]:
    """Work on ``number`` jobs at a time; results come in the order of the jobs."""
    # Rows are many small objects. Each full collection would walk all that the libraries have loaded, for nothing: it
    # takes half of the time.
    gc.freeze()
    with ThreadPoolExecutor(number) as pool:
        waiting = deque(pool.submit(work, job) for job in islice(jobs, number))
        try:
            while waiting:
                result = waiting.popleft().result()
                waiting.extend(pool.submit(work, job) for job in islice(jobs, 1))
                yield result
        finally:
            pool.shutdown(cancel_futures=True)
            gc.unfreeze()


def map_in_processes(work: Callable[[Job], Result], jobs: Iterator[Job], number: int) -> Iterator[Result]:
    """Work on jobs in processes of their own; results come as they are ready.

    Args:
        work: Can be pickled where processes are not forked. Its ConfigErrors are raised here.
        jobs: ``str(job)`` is the name that the error uses.
        number: Of processes.

    Raises:
        ConfigError: A job raised one, or its process died.
    """
    context = multiprocessing.get_context()
    started: list[tuple[BaseProcess, Connection]] = []
    try:
        busy: dict[Connection, tuple[BaseProcess, Job]] = {}
        for job in islice(jobs, number):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, work), daemon=True)
            process.start()
            theirs.close()  # so that its end is seen here
            started.append((process, ours))
            ours.send(job)
            busy[ours] = process, job
        next_jobs = deque(islice(jobs, 1))  # made while the processes work, so that none waits for it
        while busy:
            for ready in wait(list(busy)):
                assert isinstance(ready, Connection)
                owner, job = busy.pop(ready)
                result = _receive(ready, owner, job)
                if next_jobs:
                    busy[ready] = owner, next_jobs.popleft()
                    ready.send(busy[ready][1])
                    next_jobs.extend(islice(jobs, 1))
                yield result
    finally:
        for worker, connection in started:
            connection.close()
            worker.kill()  # SIGTERM would call what this process does on it: a fork has its handlers
            worker.join()


def _receive(connection: Connection, process: BaseProcess, job: Any) -> Any:
    try:
        done, value = connection.recv()
    except (EOFError, ConnectionResetError):
        process.join()
        code = process.exitcode or 0
        how = (
            f"was killed by signal {-code}, most likely out of memory; use fewer" if code < 0 else f"exited with {code}"
        )
        raise ConfigError(f"preprocessing_num_workers: the process that tokenized {job} {how}") from None
    if not done:
        raise ConfigError(value)
    return value


def _serve(connection: Connection, work: Callable[[Any], Any]) -> None:
    """Work until the other side is gone. The processes share the cores, so each keeps to one."""
    end_with_parent()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    gc.freeze()  # as above
    while True:
        try:
            job = connection.recv()
        except EOFError:
            return
        try:
            result = True, work(job)
        except ConfigError as error:
            result = False, str(error)
        connection.send(result)
