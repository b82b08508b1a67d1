# SPDX-License-Identifier: Apache-2.0
"""What the page says of jobs: a line for each, all that is known of one, what sets several apart."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...extras.secrets import mask_values
from ...jobs import Job, JobStore
from ...jobs.job import ACTIVE, QUEUED, UNFINISHED
from ...jobs.progress import clock, difference, moment, progress
from ..texts.texts import text
from .reports import table
from .reports import text as html
from .watching import MARKS, bar

PAGE = 25  # jobs on one
_MOST = 5000
_FILTERS: dict[str, Sequence[str] | None] = {"all": None, "unfinished": UNFINISHED}
_RESULTS = ("all_results.json", "results.json")
_LARGEST = 2**20


def listed(store: JobStore, states: str, words: str, page: int) -> tuple[list[Job], int, int]:
    """The jobs of one page of the list: those that run, the queue in its order, then the newest first.

    Args:
        store: The workspace's.
        states: A filter, or one state.
        words: That the name must hold.
        page: From 0.

    Returns:
        The jobs, the number of the first, and how many there are in all.
    """
    jobs = store.list(_FILTERS.get(states, (states,)), limit=_MOST)
    wanted = words.casefold().split()
    if wanted:
        jobs = [job for job in jobs if all(word in f"#{job.id} {job.name}".casefold() for word in wanted)]
    jobs.sort(key=_order)
    first = max(0, min(page, (len(jobs) - 1) // PAGE)) * PAGE
    return jobs[first : first + PAGE], first, len(jobs)


def _order(job: Job) -> tuple[int, int]:
    if job.state in ACTIVE:
        return 0, job.position
    return (1, job.position) if job.state == QUEUED else (2, -job.id)


def line(job: Job, language: str) -> str:
    """One job in a line of plain text."""
    words = [f"#{job.id} {MARKS[job.state]} {job.name}", job.command, text(language, f"state.{job.state}")]
    if job.started is not None:
        words.append(clock((job.ended or time.time()) - job.started))
    if job.state in ACTIVE:
        share = progress(job).percentage
        words += [f"{share:.0f} %"] if share is not None else []
    words += [f"GPU {job.devices}"] if job.devices else []
    return " · ".join(words)


def details(job: Job, language: str) -> str:
    """All that is known of one job, its configuration and output apart."""
    facts = [
        ("jobs.command", f"llamafactory-cli {job.command}"),
        ("jobs.started", moment(job.started)),
        ("jobs.ended", moment(job.ended)),
        ("jobs.exit_code", job.exit_code),
        ("jobs.devices", job.devices),
        ("jobs.folder", _relative(job)),
        ("jobs.parent", f"#{job.parent}" if job.parent else None),
    ]
    known = [(text(language, name), value) for name, value in facts if value not in (None, "")]
    results = _results(job)
    shown = f"<h5>{html(text(language, 'jobs.results'))}</h5>{table(('', ''), results)}" if results else ""
    return f'<div class="job">{bar(job, language)}{table(("", ""), known)}{shown}</div>'


def differences(one: Job, other: Job, language: str) -> str:
    """The keys in which two configurations differ."""
    found = [
        (key, *mask_values({"1": mine, "2": theirs}, key).values()) for key, mine, theirs in difference(one, other)
    ]
    title = f"<h5>{html(text(language, 'jobs.differences'))}</h5>"
    if not found:
        return f"<div>{title}<p>{html(text(language, 'jobs.same'))}</p></div>"
    rows = [(key, _shown(mine), _shown(theirs)) for key, mine, theirs in found]
    head = (text(language, "jobs.key"), f"#{one.id} {one.name}", f"#{other.id} {other.name}")
    return f"<div>{title}{table(head, rows, 'differences')}</div>"


def _shown(value: Any) -> str:
    return "–" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _relative(job: Job) -> str | None:
    """The folder of results, as the user wrote it; one outside of the workspace is not shown."""
    if job.output_dir is None or not job.output_dir.resolve().is_relative_to(job.workspace):
        return None
    return str(job.output_dir.resolve().relative_to(job.workspace))


def _results(job: Job) -> list[tuple[str, str]]:
    """The figures that a finished job left in its folder."""
    folder = _relative(job)
    places = [job.folder, *([job.workspace / folder] if folder is not None and job.state == "done" else [])]
    for path in [place / name for place in places for name in _RESULTS]:
        found = _read(path)
        if found:
            return [(key, f"{value:.6g}") for key, value in found.items() if isinstance(value, int | float)]
    return []


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _LARGEST:
            return {}
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def proof(job: Job, language: str) -> str:
    """What a finished export proved of its folder, and where that runs."""
    folder = _relative(job)
    if folder is None or job.state != "done":
        return ""
    place = job.workspace / folder
    proven = _read(place / "run_manifest.json").get("export_proof") or {}
    rows = [
        (text(language, f"proof.{name}") or name, f"{value:.4g}" if isinstance(value, float) else value)
        for name, value in proven.items()
        if isinstance(value, int | float)
    ]
    readers = _read(place / "compatibility.json").get("readers") or []
    head = [text(language, f"export.{name}") for name in ("reader", "version", "verdict", "words")]
    found = [[one.get(part) or "" for part in ("reader", "version", "verdict", "words")] for one in readers]
    first = f"<h5>{html(text(language, 'export.proof'))}</h5>{table(('', ''), rows)}" if rows else ""
    second = f"<h5>{html(text(language, 'export.readers'))}</h5>{table(head, found)}" if found else ""
    return f'<div class="proof">{first}{second}</div>' if first or second else ""
