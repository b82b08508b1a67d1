# SPDX-License-Identifier: Apache-2.0
"""What is asked again every two seconds while a page is open: only what its visible tab shows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..extras.errors import ConfigError
from ..extras.logging import get_logger
from .runner import RUN_TABS

if TYPE_CHECKING:
    from gradio.blocks import Block

    from .engine import Engine

logger = get_logger(__name__)


def connect(engine: Engine, tabs: Mapping[str, Any]) -> None:
    """Let the page ask.

    Args:
        engine: What is behind the page.
        tabs: Its tabs by name.
    """
    manager = engine.manager
    quick: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "concurrency_limit": None}
    names = ["top.lang", "footer.tab", *(f"{tab}.{part}" for tab in RUN_TABS for part in ("job", "seen"))]
    inputs = {manager.get_elem_by_id(name) for name in names if manager.has(name)} | engine.jobs_page.inputs()
    outputs = list(manager.elems(*RUN_TABS, "jobs", "footer"))
    shown = [elem for elem in outputs if not manager.is_field(elem)]
    manager.get_elem_by_id("footer.timer").tick(lambda data: tick(engine, data), inputs, shown, **quick)  # type: ignore[attr-defined]
    for name, tab in tabs.items():

        def select(data: Mapping[Block, Any], name: str = name) -> Any:
            return tick(engine, data, name)

        tab.select(select, inputs, shown, **quick)


def tick(engine: Engine, data: Mapping[Block, Any], tab: str | None = None) -> Any:
    """What has changed of what is seen.

    Args:
        engine: What is behind the page.
        data: What the page holds.
        tab: The tab that was just opened.
    """
    values = engine.manager.values(data)
    changes: dict[str, Any] = {"footer.tab": tab} if tab else {}
    seen = tab or values.get("footer.tab")
    try:
        engine.runner.look()
        if seen in RUN_TABS:
            changes |= engine.runner.monitor(
                seen, values.get(f"{seen}.job"), values.get(f"{seen}.seen") or {}, values["top.lang"]
            )
        elif seen == "jobs":
            changes |= engine.jobs_page.refresh(engine.runner.read("jobs", data))
    except ConfigError as error:  # asked again soon, and said by whatever is pressed
        logger.debug("%s", error)
    return engine.manager.answer(changes)
