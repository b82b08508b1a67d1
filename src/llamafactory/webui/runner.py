# SPDX-License-Identifier: Apache-2.0
"""What the buttons of a run do: show it before it is started, start it as a job, watch it, end it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ..extras.errors import ConfigError, writing
from ..extras.logging import get_logger
from ..jobs import Job, JobStore, ensure_runner
from ..jobs.job import UNFINISHED
from ..jobs.progress import tail
from .drawing import reports
from .drawing.jobs_view import proof
from .drawing.watching import Curvebook, bar, draw, log
from .fields import configuration
from .fields.applicability import reasons_off
from .fields.choices import is_new_run, new_run
from .fields.fields import COMMON
from .handlers.side_commands import ask_json, ask_rows
from .texts.texts import parts, text
from .workspace import workspace

if TYPE_CHECKING:
    from gradio.blocks import Block

    from .manager import Manager

logger = get_logger(__name__)
Changes = dict[str, Any]  # of elements, by name
RUN_TABS = ("train", "eval", "export")
WATCHED = ("job", "seen", "progress_bar", "loss_viewer", "output_box", "stop_btn", "proof")  # of a tab's run
PREVIEWED = 4  # rows at once
_LOOK_SECONDS = 10.0  # between looks at whether the queue is being worked on
# Fields of a job that are variables of its environment.
_VARIABLES = {"nnodes": "NNODES", "node_rank": "NODE_RANK", "master_addr": "MASTER_ADDR", "master_port": "MASTER_PORT"}


@dataclass(frozen=True)
class Asked:
    """What a page asks for.

    Attributes:
        tab: On which tab.
        values: Field id to value.
        language: Of the page.
        state: What else the page holds for the tab: elements that are no fields, by name.
    """

    tab: str
    values: dict[str, Any]
    language: str
    state: dict[str, Any]

    def text(self, name: str, part: str = "label") -> str:
        """A text in the page's language."""
        return text(self.language, name, part)


def told(tab: str, error: ConfigError) -> Changes:
    """One clear message: beside the buttons, and as a note that goes away."""
    import gradio as gr

    gr.Warning(reports.text(error))
    return {f"{tab}.problems": gr.update(value=_problems([(None, str(error))]), visible=True)}


def _problems(found: list[tuple[str | None, str]]) -> str:
    lines = "".join(f"<li>{reports.text(message[:1000])}</li>" for _, message in found)
    return f'<ul class="problems" role="alert">{lines}</ul>' if lines else ""


class Runner:
    """The runs of a page, which live outside of it.

    Args:
        manager: The page's elements.
        demo_mode: Nothing is run.
    """

    def __init__(self, manager: Manager, demo_mode: bool = False) -> None:
        self.manager, self.demo_mode = manager, demo_mode
        self.curves = Curvebook()
        self._looked = 0.0

    @cached_property
    def store(self) -> JobStore:
        """The jobs of the workspace."""
        return JobStore(workspace())

    def outputs(self, tab: str) -> list[Block]:
        """The elements that a handler of a tab may change."""
        return list(self.manager.elems("top", tab)) + [
            elem for name, elem in self.manager.named("timer") if name == f"timer.{tab}"
        ]

    def checked_outputs(self, tab: str) -> list[Block]:
        """The elements that a look at the fields of a tab may change."""
        names = [f"{tab}.{part}" for part in ("marks", "problems", "command", "yaml")]
        names += ["train.above"] if tab == "train" else []
        return [*self.manager.get_fields("top", tab), *(self.manager.get_elem_by_id(name) for name in names)]

    def inputs(self, tab: str) -> set[Block]:
        """The elements whose values a handler of a tab takes."""
        states = [
            f"{tab}.{name}"
            for name in ("more", "devices", "job", "marks", "preset", "previewed", "rows_from", *_VARIABLES)
        ]
        more = {self.manager.get_elem_by_id(name) for name in ("top.lang", *states) if self.manager.has(name)}
        return self.manager.get_fields("top", tab) | more

    def read(self, tab: str, data: Mapping[Block, Any]) -> Asked:
        """Sort what a handler got: values of fields, and the rest."""
        given = self.manager.values(data)
        language = given.pop("top.lang", None) or "en"
        values = {name: value for name, value in given.items() if name in COMMON}
        state = {name.partition(".")[2]: value for name, value in given.items() if name not in COMMON}
        return Asked(tab, {**values, **(state.get("more") or {})}, language, state)

    def handle(self, tab: str, work: Callable[[Asked], Changes]) -> Callable[[Mapping[Block, Any]], Any]:
        """A handler of the tab's elements; what the user can mend becomes one message."""

        def handler(data: Mapping[Block, Any]) -> Any:
            try:
                with writing(workspace()):
                    return self.manager.answer(work(self.read(tab, data)))
            except ConfigError as error:
                return self.manager.answer(told(tab, error))

        return handler

    # Before a run.

    def config(self, asked: Asked) -> tuple[str, dict[str, Any]]:
        """The command and the flat keys of what a tab asks for.

        Raises:
            ConfigError: A value cannot be read.
        """
        return configuration.command_of(asked.tab, asked.values), configuration.build(asked.tab, asked.values)

    def checked(self, asked: Asked) -> tuple[str, dict[str, Any], list[tuple[str | None, str]]]:
        """Command, keys, and what is wrong with them."""
        try:
            command, config = self.config(asked)
        except ConfigError as error:
            key = str(error).partition(":")[0]
            return "", {}, [(key if " " not in key else None, str(error))]
        return command, config, configuration.check(command, config)

    def preview(self, asked: Asked) -> Changes:
        """Show the exact command and file, and what is wrong with them."""
        asked.state["previewed"] = True
        named = _name_run(asked)
        return named | self.check(asked) | {f"{asked.tab}.previewed": True}

    def check(self, asked: Asked) -> Changes:
        """Say at the fields what is wrong with them and which have no effect; a preview that is shown stays true."""
        import gradio as gr

        command, config, problems = self.checked(asked)
        if not asked.state.get("previewed"):  # nobody pressed anything: what waits to be filled in is not wrong yet
            problems = [found for found in problems if asked.values.get(f"{asked.tab}.{found[0]}") != ""]
        changes = self.mark(asked, problems)
        if asked.tab == "train":  # which hears of the fields above the tabs
            changes["train.above"] = str({name: value for name, value in asked.values.items() if "top." in name})
        if asked.state.get("previewed") and config:
            line, file = configuration.to_command(command, config), configuration.to_yaml(config)
            changes[f"{asked.tab}.command"] = gr.update(value=line, visible=True)
            changes[f"{asked.tab}.yaml"] = gr.update(value=file, visible=True)
        return changes

    def say_again(self, asked: Asked) -> Changes:
        """All that was said of fields and is shown of the run, in a language that was just chosen."""
        said = asked.state.get("marks")
        asked.state["marks"] = {}
        shown = self.check(asked) if said else {}
        return shown | self.monitor(asked.tab, asked.state.get("job"), {}, asked.language)

    def first_marks(self, tab: str, language: str) -> dict[str, tuple[str, str]]:
        """What is said of the fields of a page that was just opened."""
        return {name: ("off", why) for name, why in reasons_off(tab, {}, language).items() if name in COMMON}

    def mark(self, asked: Asked, problems: list[tuple[str | None, str]]) -> Changes:
        """Changes of the fields whose state is another one than before, and the list of problems."""
        import gradio as gr

        tab = asked.tab
        off = reasons_off(tab, asked.values, asked.language)
        marks = {name: ("off", reason) for name, reason in off.items() if name in COMMON}
        by_key = {COMMON[name].key: name for name in COMMON if name.partition(".")[0] in ("top", tab)}
        for key, message in problems:
            name = by_key.get(key) if key else None
            if name is not None:
                marks[name] = ("bad", message)
        before = asked.state.get("marks") or {}
        changes: Changes = {f"{tab}.marks": marks}
        for name in {*marks, *before}:
            if marks.get(name) != before.get(name):
                kind, words = marks.get(name, ("", parts(asked.language, name).get("info", COMMON[name].help)))
                changes[name] = gr.update(interactive=kind != "off", info=words[:300] or None, elem_classes=[kind])
        changes[f"{tab}.problems"] = gr.update(value=_problems(problems), visible=bool(problems))
        return changes

    def preview_rows(self, asked: Asked, move: int = 0) -> Changes:
        """Show rows of the data as the model will see them, the trained tokens coloured."""
        import gradio as gr

        self.refuse_in_demo(asked)
        first, shown = preview_page(asked, self.config(asked)[1], move)
        if shown is None:
            return {}
        return {
            f"{asked.tab}.rows": gr.update(value=shown),
            f"{asked.tab}.rows_box": gr.update(visible=True, open=True),
            f"{asked.tab}.rows_from": first,
            f"{asked.tab}.problems": gr.update(value="", visible=False),
        }

    def estimate(self, asked: Asked) -> Changes:
        """Show what memory the run needs, and the nearest that fits."""
        import gradio as gr

        self.refuse_in_demo(asked)
        _, config, problems = self.checked(asked)
        if problems:
            return self.mark(asked, problems)
        words = {name: asked.text(f"plan.{name}") for name in ("fits", "too_big", "of", "with", "speed", "none")}
        shown = reports.plan(ask_json("plan", config), words)
        return {
            f"{asked.tab}.plan": gr.update(value=shown, visible=True),
            f"{asked.tab}.problems": gr.update(value="", visible=False),
        }

    # A run.

    def run_train(self, data: Mapping[Block, Any]) -> dict[Block, Any]:
        """Start training."""
        return self._launch(data, do_train=True)

    def run_eval(self, data: Mapping[Block, Any]) -> dict[Block, Any]:
        """Start an evaluation."""
        return self._launch(data, do_train=False)

    def _launch(self, data: Mapping[Block, Any], do_train: bool) -> dict[Block, Any]:
        return self.handle("train" if do_train else "eval", self.start)(data)

    def start(self, asked: Asked) -> Changes:
        """Put a run into the queue, and show it."""
        self.refuse_in_demo(asked)
        place = f"{asked.tab}.output_dir"
        shown = str(asked.values.get(place) or "")
        _name_run(asked)
        command, config, problems = self.checked(asked)
        if problems:
            return self.mark(asked, problems)
        environment = {
            variable: str(asked.state[name]).strip()
            for name, variable in _VARIABLES.items()
            if asked.state.get(name) not in (None, "")
        }
        devices = ",".join(asked.state.get("devices") or [])
        job = self.store.submit(command, config, devices=devices, environment=environment)
        self.look(anew=True)
        emptied = {place: ""} if is_new_run(shown) else {}  # the next one has another name
        return self.show(asked.tab, job, asked.language) | emptied

    def abort(self, asked: Asked) -> Changes:
        """Ask the run that is shown to save and end."""
        number = asked.state.get("job")
        if not number:
            raise ConfigError(asked.text("alert.no_run"))
        self.refuse_in_demo(asked)
        job = self.store.cancel(int(number))
        self.look(anew=True)
        return self.show(asked.tab, job, asked.language)

    def show(self, tab: str, job: Job, language: str) -> Changes:
        """All that a tab shows of a job."""
        return {f"{tab}.job": job.id} | self.monitor(tab, job.id, {}, language)

    def monitor(self, tab: str, number: int | None, seen: Mapping[str, Any], language: str) -> Changes:
        """What has changed of the job that a tab shows.

        Args:
            tab: The tab.
            number: The job's.
            seen: What the page has of it already.
            language: Of the words.
        """
        import gradio as gr

        if not number or seen.get("over") == number:
            return {}
        try:
            job = self.store.get(number)
        except ConfigError:  # removed from the history meanwhile
            emptied = dict.fromkeys((f"{tab}.progress_bar", f"{tab}.loss_viewer", f"{tab}.output_box"), "")
            return {f"{tab}.job": None, f"timer.{tab}": gr.Timer(active=False), **emptied}
        new = {"bar": bar(job, language), "log": tail(job), "curves": draw(self.curves.read(job), language)}
        places = {"bar": "progress_bar", "log": "output_box", "curves": "loss_viewer"}
        marks = {name: hash(value) for name, value in new.items()}
        changes: Changes = {
            f"{tab}.{places[name]}": log(job, value) if name == "log" else gr.update(value=value, visible=True)
            for name, value in new.items()
            if marks[name] != seen.get(name)
        }
        if changes:
            if tab == "export":
                changes["export.proof"] = proof(job, language)
            going = job.state in UNFINISHED
            marks["over"] = 0 if going else number
            changes[f"timer.{tab}"] = gr.Timer(active=going)
            changes |= {f"{tab}.seen": marks, f"{tab}.stop_btn": gr.update(interactive=going)}
        return changes

    def newest(self, tab: str) -> Job | None:
        """The run that a tab shows when a page opens: one that goes on, else the last."""
        jobs = [job for job in self.store.list(limit=500) if tab_of(job) == tab]
        running = [job for job in jobs if job.state in UNFINISHED]
        if running:
            return running[-1]  # of those that go on, the first to end
        return jobs[0] if jobs else None

    def show_newest(self, tab: str, number: int | None, language: str) -> Changes:
        """All that a tab shows when it is opened: the run it had, unless another one goes on."""
        job = self.newest(tab)
        if job is None or (number and job.state not in UNFINISHED):
            return self.monitor(tab, number, {}, language)
        return self.show(tab, job, language)

    def resume(self, language: str) -> Changes:
        """What a page that opens shows of the runs that go on; it opens on the tab that trains."""
        changes: Changes = {}
        try:
            self.look(anew=True)
            for tab in RUN_TABS:
                job = self.newest(tab)
                if job is not None:
                    changes |= self.show(tab, job, language) if tab == "train" else {f"{tab}.job": job.id}
        except ConfigError as error:
            changes |= told("train", error)
        return changes

    def resumed(self) -> list[str]:
        """The names of the elements that :meth:`resume` may change."""
        shown = [f"train.{part}" for part in (*WATCHED, "problems")]
        return [*shown, "timer.train", *(f"{tab}.job" for tab in RUN_TABS[1:])]

    def look(self, anew: bool = False) -> None:
        """See to it that the queue is worked on: its runner may have been killed."""
        if anew or time.monotonic() - self._looked > _LOOK_SECONDS:
            self._looked = time.monotonic()
            ensure_runner(workspace())

    def refuse_in_demo(self, asked: Asked) -> None:
        """Nothing is run or written where the page is shown to everybody.

        Raises:
            ConfigError: It is.
        """
        if self.demo_mode:
            raise ConfigError(asked.text("alert.demo"))


def preview_page(asked: Asked, config: Mapping[str, Any], move: int) -> tuple[int, str | None]:
    """The number of the first row of a page of the data's preview, and the page; none beyond the last row.

    Args:
        asked: ``rows_from`` of its state is the page that is shown.
        config: Keys of the data and the model.
        move: Pages to turn on, or back.
    """
    first = max(0, int(asked.state.get("rows_from") or 0) + move * PREVIEWED)
    found = ask_rows(config, first + PREVIEWED)[first:]
    if not found and first:
        return first, None
    return first, reports.rows(found, asked.text("watch.trained"), asked.text("watch.context"), first + 1)


def _name_run(asked: Asked) -> Changes:
    """A run without a name gets one, by the clock."""
    place = f"{asked.tab}.output_dir"
    if place not in COMMON or str(asked.values.get(place) or "").strip():
        return {}
    asked.values[place] = new_run(asked.tab)
    return {place: asked.values[place]}


def tab_of(job: Job) -> str:
    """The tab that a job belongs to."""
    if job.command == "export":
        return "export"
    return "train" if job.command == "train" and job.config.get("do_train") else "eval"
