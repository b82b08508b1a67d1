# SPDX-License-Identifier: Apache-2.0
"""Who shares the memory that a model is loaded into: jobs that run on this machine."""

from __future__ import annotations

from ...extras.memory import memories
from ..texts.texts import text
from ..workspace import CACHE, workspace

_STORE = "jobs.db"


def warning(language: str) -> str:
    """What to know before a model is loaded beside a job that runs; nothing where none does."""
    if not (workspace() / CACHE / _STORE).is_file():  # looking makes no store
        return ""
    from ...jobs.store import JobStore

    running = JobStore(workspace()).list(states=["running", "stopping"])
    if not running:
        return ""
    jobs = ", ".join(f"{job.id} ({job.command} {job.name})" for job in running)
    return text(language, "infer.shared_memory").format(jobs=jobs, memory="; ".join(map(str, memories())))
