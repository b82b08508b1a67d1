# SPDX-License-Identifier: Apache-2.0
"""Who shares the memory that a model is loaded into: jobs that run on this machine."""

from __future__ import annotations

from ...extras.memory import memories
from ...jobs.database import FILE_NAME
from ...jobs.job import ACTIVE
from ...jobs.store import JobStore
from ..texts.texts import text
from ..workspace import CACHE, workspace


def warning(language: str) -> str:
    """What to know before a model is loaded beside a job that runs; nothing where none does."""
    if not (workspace() / CACHE / FILE_NAME).is_file():  # looking makes no store
        return ""
    running = JobStore(workspace()).list(states=ACTIVE)
    if not running:
        return ""
    jobs = ", ".join(f"{job.id} ({job.command} {job.name})" for job in running)
    return text(language, "infer.shared_memory").format(jobs=jobs, memory="; ".join(map(str, memories())))
