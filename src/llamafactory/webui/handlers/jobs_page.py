# SPDX-License-Identifier: Apache-2.0
"""What the buttons of the tab of jobs do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ...extras.errors import ConfigError
from ...jobs import Job
from ...jobs.job import UNFINISHED
from ...jobs.progress import tail
from ..drawing import jobs_view
from ..drawing.reports import text as html
from ..drawing.watching import draw, draw_overlay, log
from ..fields.configuration import check, to_values, to_yaml
from ..runner import Asked, told
from .presets_page import show

if TYPE_CHECKING:
    from gradio.blocks import Block

    from ..runner import Changes, Runner

_STATES = ("page", "seen", "filter", "find", "list")


class JobsPage:
    """The queue and the history.

    Args:
        runner: The runs of the page.
    """

    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    def inputs(self) -> set[Block]:
        """The elements whose values a handler takes."""
        manager = self._runner.manager
        return {manager.get_elem_by_id(name) for name in ("top.lang", *(f"jobs.{part}" for part in _STATES))}

    def handle(self, work: Callable[[Asked], Changes]) -> Callable[[Mapping[Block, Any]], Any]:
        """A handler; what the user can mend becomes one message."""
        return self._runner.handle("jobs", work)

    # The list.

    def refresh(self, asked: Asked) -> Changes:
        """What has changed since the page was last told."""
        changes = self._list(asked)
        jobs = self._chosen(asked)
        if len(jobs) == 1 and jobs[0].id != (asked.state.get("seen") or {}).get("over"):
            changes |= self._details(jobs, asked)
        return changes

    def _list(self, asked: Asked) -> Changes:
        import gradio as gr

        state = asked.state
        jobs, first, count = jobs_view.listed(
            self._runner.store, state.get("filter") or "all", state.get("find") or "", int(state.get("page") or 0)
        )
        choices = [(jobs_view.line(job, asked.language), str(job.id)) for job in jobs]
        seen = state.get("seen") or {}
        mark = hash((tuple(choices), asked.language, first, count))
        if mark == seen.get("list"):
            return {}
        chosen, offered = state.get("list") or [], {value for _, value in choices}
        kept = [one for one in chosen if one in offered]
        # Only what is gone is taken away: by the time of this answer others may be chosen.
        value: dict[str, Any] = {} if kept == chosen else {"value": kept}
        words = asked.text("jobs.count").format(first=first + 1, last=first + len(jobs), count=count)
        return {
            "jobs.list": gr.update(choices=choices, **value),
            "jobs.count": f'<p class="count">{html(words if count else asked.text("jobs.none"))}</p>',
            "jobs.page": first // jobs_view.PAGE,
            "jobs.seen": {**seen, "list": mark},
        }

    def first(self, asked: Asked) -> Changes:
        """Another filter begins at its first page."""
        return self._turn(asked, -(10**9))

    def newer(self, asked: Asked) -> Changes:
        """Turn to newer jobs."""
        return self._turn(asked, -1)

    def older(self, asked: Asked) -> Changes:
        """Turn to older jobs."""
        return self._turn(asked, 1)

    def _turn(self, asked: Asked, by: int) -> Changes:
        asked.state["page"] = max(0, int(asked.state.get("page") or 0) + by)
        asked.state["seen"] = {}
        return self._list(asked)

    # What is chosen.

    def choose(self, asked: Asked) -> Changes:
        """Show one job, or lay several over each other."""
        asked.state["seen"] = {**(asked.state.get("seen") or {}), "over": None}
        return self._details(self._chosen(asked), asked)

    def _chosen(self, asked: Asked) -> list[Job]:
        found = []
        for number in asked.state.get("list") or []:
            try:
                found.append(self._runner.store.get(int(number)))
            except (ConfigError, ValueError):
                continue  # removed meanwhile
        return found

    def _details(self, jobs: list[Job], asked: Asked) -> Changes:
        import gradio as gr

        one = jobs[0] if len(jobs) == 1 else None
        language = asked.language
        if one is not None:
            shown, curves = jobs_view.details(one, language), draw(self._runner.curves.read(one), language)
        else:
            pair = jobs_view.differences(jobs[0], jobs[1], language) if len(jobs) == 2 else ""
            shown, curves = pair, draw_overlay(jobs, language) if jobs else ""
        over = one.id if one is not None and one.state not in UNFINISHED else None
        changes: Changes = {
            "jobs.details": shown,
            "jobs.curves": curves,
            "jobs.output_box": log(one, tail(one)) if one else gr.update(value="", visible=False),
            "jobs.yaml": gr.update(value=to_yaml(one.config) if one else "", visible=one is not None),
            "jobs.problems": gr.update(value="", visible=False),
        }
        return changes | {"jobs.seen": {**(asked.state.get("seen") or {}), "over": over}}

    # What is done to it.

    def up(self, asked: Asked) -> Changes:
        """Let it run earlier."""
        return self._each(asked, lambda job: self._runner.store.move(job.id, up=True))

    def down(self, asked: Asked) -> Changes:
        """Let it run later."""
        return self._each(asked, lambda job: self._runner.store.move(job.id, up=False), backwards=True)

    def cancel(self, asked: Asked) -> Changes:
        """Take it out of the queue, or ask it to save and end."""
        return self._each(asked, lambda job: self._runner.store.cancel(job.id))

    def resume(self, asked: Asked) -> Changes:
        """Go on from its last checkpoint, in its folder."""
        return self._each(asked, lambda job: self._runner.store.resume(_allowed(job).id))

    def copy(self, asked: Asked) -> Changes:
        """Run it again, into a folder of its own."""
        return self._each(asked, lambda job: self._runner.store.copy(_allowed(job).id))

    def remove(self, asked: Asked) -> Changes:
        """Forget it; what it wrote to its results' folder stays."""
        changes = self._each(asked, lambda job: self._runner.store.remove(job.id))
        return changes | self._details([], asked) | {"jobs.seen": changes.get("jobs.seen", {})}

    def open(self, asked: Asked) -> Changes:
        """Put its configuration into the fields of the tab Train, to start from there."""
        import gradio as gr

        jobs = self._chosen(asked)
        if len(jobs) != 1:
            raise ConfigError(asked.text("alert.one_job"))
        config = {key: value for key, value in jobs[0].config.items() if key not in ("output_dir", "do_train")}
        gr.Info(f"{asked.text('alert.opened')} #{jobs[0].id}")
        return show("train", to_values(config, "train"))

    def _each(self, asked: Asked, work: Callable[[Job], object], backwards: bool = False) -> Changes:
        """Do something to every chosen job, in the order of the queue; the first that cannot be done is told."""
        self._runner.refuse_in_demo(asked)
        jobs = sorted(self._chosen(asked), key=lambda job: job.position, reverse=backwards)
        if not jobs:
            raise ConfigError(asked.text("alert.no_job"))
        failure: Changes = {}
        try:
            for job in jobs:
                work(job)
        except ConfigError as error:
            failure = told("jobs", error)
        self._runner.look(anew=True)
        asked.state["seen"] = {}
        return self._details(self._chosen(asked), asked) | self._list(asked) | failure


def _allowed(job: Job) -> Job:
    """A job that the page may start again: a terminal may have submitted what no page may.

    Raises:
        ConfigError: What is wrong with its configuration.
    """
    problems = check(job.command, job.config)
    if problems:
        raise ConfigError(f"job {job.id}: {problems[0][1]}")
    return job
