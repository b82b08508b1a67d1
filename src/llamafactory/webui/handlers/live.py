# SPDX-License-Identifier: Apache-2.0
"""What is asked again every two seconds: only of the tab that is seen, and only while something goes on there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...extras.errors import ConfigError, writing
from ...extras.logging import get_logger
from ..components.widgets import IN_TURN
from ..drawing.device_memory import device_memory
from ..runner import RUN_TABS, WATCHED
from ..workspace import workspace

if TYPE_CHECKING:
    from gradio.blocks import Block

    from ..engine import Engine
    from ..runner import Changes

logger = get_logger(__name__)
SECONDS = 2.0
_WATCHED_TABS = (*RUN_TABS, "jobs")  # the tab that chats has a clock of its own


def create_timers(tabs: Sequence[str]) -> dict[str, Block]:
    """The clocks of the tabs that show what goes on; all stand still at first."""
    import gradio as gr

    return {tab: gr.Timer(SECONDS, active=False) for tab in _WATCHED_TABS if tab in tabs}


def connect(engine: Engine, tabs: Mapping[str, Any]) -> None:
    """Let the page ask: when a tab is opened, and then by its clock.

    A handler costs the browser time for each of its outputs, whatever becomes of them: each has only its tab's.

    Args:
        engine: What is behind the page.
        tabs: Its tabs by name.
    """
    manager = engine.manager
    timers = [name for name, _ in manager.named("timer")]
    memory = manager.get_elem_by_id("footer.memory")
    for name, tab in tabs.items():
        inputs, outputs = {manager.get_elem_by_id("top.lang")}, []
        if name == "jobs":
            inputs |= engine.jobs_page.inputs()
            outputs = list(manager.elems("jobs"))
        elif manager.has(f"{name}.job"):
            inputs |= {manager.get_elem_by_id(f"{name}.{part}") for part in ("job", "seen")}
            outputs = [manager.get_elem_by_id(f"{name}.{part}") for part in WATCHED if manager.has(f"{name}.{part}")]

        def look(data: Mapping[Block, Any], name: str = name) -> Any:
            return manager.answer(find_changes(engine, name, data) | _memory())

        def open_tab(data: Mapping[Block, Any], name: str = name) -> Any:
            import gradio as gr

            still = {timer: gr.Timer(active=False) for timer in timers if timer != "timer.infer" or name != "infer"}
            going = {"timer.jobs": gr.Timer(active=True)} if name == "jobs" else {}
            return manager.answer(still | find_changes(engine, name, data, anew=True) | going | _memory())

        if name in _WATCHED_TABS:
            timer: Any = manager.get_elem_by_id(f"timer.{name}")
            timer.tick(look, inputs, [*outputs, timer, memory], trigger_mode="once", **IN_TURN)
        clocks = [manager.get_elem_by_id(timer) for timer in timers]
        tab.select(open_tab, inputs, [*outputs, *clocks, memory], **IN_TURN)


def _memory() -> Changes:
    shown = device_memory()
    return {"footer.memory": shown} if shown else {}


def find_changes(engine: Engine, tab: str, data: Mapping[Block, Any], anew: bool = False) -> Changes:
    """What has changed of what a tab shows.

    Args:
        engine: What is behind the page.
        tab: The tab that is seen.
        data: What the page holds.
        anew: It was just opened: all of it is told.
    """
    values = engine.manager.values(data)
    try:
        with writing(workspace()):
            return _news(engine, tab, values, data, anew)
    except ConfigError as error:  # asked again soon, and said by whatever is pressed
        logger.debug("%s", error)
        return {}


def _news(engine: Engine, tab: str, values: Mapping[str, Any], data: Mapping[Block, Any], anew: bool) -> Changes:
    engine.runner.look()
    if tab == "jobs":
        return engine.jobs_page.refresh(engine.runner.read("jobs", data))
    number, seen = values.get(f"{tab}.job"), values.get(f"{tab}.seen") or {}
    if anew and tab in RUN_TABS:
        # It may have been started elsewhere: in a terminal, or on the tab of the jobs.
        return engine.runner.show_newest(tab, number, values["top.lang"])
    return engine.runner.monitor(tab, number, seen, values["top.lang"])
