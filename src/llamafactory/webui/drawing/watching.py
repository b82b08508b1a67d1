# SPDX-License-Identifier: Apache-2.0
"""What the page shows of a job, as HTML in one line: where it stands, and its curves, read bit by bit."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from ...jobs.job import ACTIVE, Job
from ...jobs.progress import Curve, Curves, Points, Progress, clock, overlay, progress, thin
from ..texts.texts import text
from .chart import Series, chart, charts
from .reports import text as html

_MOST_POINTS = 400  # of a curve: as many as the picture has places
_MOST_CURVES = 32  # jobs whose curves are kept in memory
_MOST_SERIES = 8  # in one picture
# Figures in front, in this order; all else is folded away below them.
_FIRST = ("loss", "learning_rate", "grad_norm", "rewards", "reward", "throughput")
MARKS = {"queued": "…", "running": "▶", "stopping": "◼", "done": "✓", "failed": "✗", "cancelled": "–"}
_UNITS = {"throughput": "tokens/s", "learning_rate": "", "data_wait": "s", "rollout_seconds": "s"}


class Curvebook:
    """Curves of the jobs that were looked at last, shared by all open pages."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[int, Curve] = OrderedDict()

    def read(self, job: Job) -> Curves:
        """The curves of a job so far; only what is new is read."""
        with self._lock:
            curve = self._kept.get(job.id)
            if curve is None or curve.job.created != job.created:
                curve = self._kept[job.id] = Curve(job)
            self._kept.move_to_end(job.id)
            while len(self._kept) > _MOST_CURVES:
                self._kept.popitem(last=False)
            curve.job = job
            curve.update()
            return {name: thin(points, _MOST_POINTS) for name, points in curve.series.items()}


def log(job: Job, shown: str) -> Any:
    """The end of a job's output in its box, whose class tells the browser whose it is (``board.js``)."""
    import gradio as gr

    return gr.update(value=shown, visible=True, elem_classes=["log", f"of-{job.id}"])


def figure_of(name: str) -> str:
    """The picture that a figure of the log is drawn in."""
    plain = name.removeprefix("eval_")
    if plain == "loss" or (name.startswith(("eval_", "predict_")) and name.endswith("loss")):
        return "loss"
    if name == "lr":
        return "learning_rate"
    if plain.startswith("rewards/"):
        return "accuracy" if plain.endswith("accuracies") else "rewards"
    return plain.partition("/")[0]


def draw(curves: Mapping[str, Points], language: str) -> str:
    """All curves of one run."""
    figures: dict[str, list[Series]] = {}
    for name, points in curves.items():
        place = figures.setdefault(figure_of(name), [])
        place.append(Series(_shown(name, language), points, len(place), smoothed=name == "loss"))
    return _arranged(figures, language)


def draw_overlay(jobs: Sequence[Job], language: str) -> str:
    """The curves of several runs, those of one kind in one picture; a run keeps its colour."""
    colours = {f"{job.id} {job.name}": place for place, job in enumerate(jobs)}
    figures: dict[str, list[Series]] = {}
    for name, by_job in overlay(jobs, _MOST_POINTS).items():
        title = figure_of(name) if name in ("loss", "lr") else name
        figures.setdefault(title, []).extend(
            Series(f"#{job}", points, colours[job], smoothed=name == "loss") for job, points in by_job.items()
        )
    return _arranged(figures, language)


def _arranged(figures: Mapping[str, Sequence[Series]], language: str) -> str:
    step = text(language, "watch.step")
    drawn = {
        name: chart(_shown(name, language), series[:_MOST_SERIES], _UNITS.get(name, ""), step)
        for name, series in figures.items()
    }
    front = [drawn[name] for name in _FIRST if name in drawn]
    rest = [picture for name, picture in drawn.items() if name not in _FIRST]
    more = f"<details><summary>{html(text(language, 'watch.more'))}</summary>{charts(rest)}</details>" if rest else ""
    return f'<div class="curves">{charts(front)}{more}</div>' if front or rest else ""


def _shown(name: str, language: str) -> str:
    return text(language, f"figure.{name}") or name.replace("_", " ")


def bar(job: Job, language: str, found: Progress | None = None) -> str:
    """Where a job stands: a bar, and what is known of its pace.

    Args:
        job: The job.
        language: Of the words.
        found: Its progress, if it was read already.
    """
    found = progress(job) if found is None else found
    share = 100.0 if job.state == "done" else (found.percentage or 0.0)
    facts = [
        ("watch.step", f"{found.step:,} / {found.total:,}" if found.total else None),
        ("watch.elapsed", found.elapsed or (clock(found.seconds) if found.seconds is not None else None)),
        ("watch.remaining", found.remaining if job.state in ACTIVE else None),
        ("watch.epoch", f"{found.epoch:.2f}" if found.epoch is not None else None),
        ("figure.loss", f"{found.loss:.4g}" if found.loss is not None else None),
        ("figure.eval_loss", f"{found.eval_loss:.4g}" if found.eval_loss is not None else None),
        ("figure.throughput", f"{found.throughput:,.0f} tokens/s" if found.throughput else None),
        ("watch.memory", f"{found.memory:.2f} GiB" if found.memory else None),
    ]
    shown = "".join(
        f"<span><small>{html(text(language, name))}</small> {html(value)}</span>" for name, value in facts if value
    )

    state = text(language, f"state.{job.state}")
    message = f'<p class="reason">{html(job.message)}</p>' if job.message else ""
    label = escape(f"{job.name}: {share:.0f} %", quote=True)
    return (
        f'<div class="progress {job.state}"><p><b>#{job.id} {html(job.name)}</b> '
        f'<em class="state">{html(state)}</em> <span class="share">{share:.0f} %</span></p>'
        f'<div class="track" role="progressbar" aria-label="{label}" aria-valuenow="{share:.0f}">'
        f'<i style="width:{share:.1f}%"></i></div><p class="facts">{shown}</p>{message}</div>'
    )
