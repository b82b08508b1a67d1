# SPDX-License-Identifier: Apache-2.0
"""The tab of all jobs: the queue, the history, and what sets runs apart."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..texts.texts import parts
from .watch import html
from .widgets import IN_TURN, button

if TYPE_CHECKING:
    from gradio.blocks import Block

    from ..engine import Engine

_ACTIONS = ("up_btn", "down_btn", "cancel_btn", "resume_btn", "copy_btn", "open_btn", "remove_btn")


def create_jobs_tab(engine: Engine) -> dict[str, Block]:
    """Build the tab; gives its elements by name."""
    import gradio as gr

    language = engine.language
    elems: dict[str, Any] = {"page": gr.State(0), "seen": gr.State({})}
    with gr.Row():
        filters = parts(language, "jobs.filter")
        elems["filter"] = gr.Dropdown(value="all", interactive=True, elem_id="jobs-filter", min_width=150, **filters)
        elems["find"] = gr.Textbox(
            "", interactive=True, elem_id="jobs-find", min_width=150, **parts(language, "jobs.find")
        )
    elems["list"] = gr.CheckboxGroup(
        [], value=[], interactive=True, elem_id="jobs-list", **parts(language, "jobs.list")
    )
    with gr.Row(elem_classes=["buttons"]):
        elems["newer_btn"] = button(language, "jobs.newer_btn", size="sm")
        elems["count"] = html(elem_id="jobs-count")
        elems["older_btn"] = button(language, "jobs.older_btn", size="sm")
    with gr.Row(elem_classes=["buttons"]):
        for name in _ACTIONS:
            more = {"variant": "stop"} if name in ("cancel_btn", "remove_btn") else {}
            elems[name] = button(language, f"jobs.{name}", size="sm", **more)
    elems["problems"] = html(visible=False, elem_id="jobs-problems")
    elems["details"] = html(elem_id="jobs-details")
    elems["curves"] = html(elem_id="jobs-curves")
    elems["output_box"] = gr.Textbox(
        lines=10, max_lines=10, interactive=False, autoscroll=False, visible=False, buttons=["copy"],
        elem_id="jobs-output", elem_classes=["log"], **parts(language, "jobs.output_box"),
    )  # fmt: skip
    elems["yaml"] = gr.Code(
        language="yaml", interactive=False, visible=False, lines=4, max_lines=24, elem_id="jobs-yaml",
        **parts(language, "jobs.yaml"),
    )  # fmt: skip
    engine.manager.add_elems("jobs", elems)
    _connect(gr, engine, elems)
    return elems


def _connect(gr: Any, engine: Engine, elems: dict[str, Any]) -> None:
    page, manager = engine.jobs_page, engine.manager
    inputs = page.inputs()
    outputs = list(manager.elems("jobs"))
    elems["list"].input(page.handle(page.choose), inputs, outputs, trigger_mode="always_last", **IN_TURN)
    gr.on(
        [elems["filter"].input, elems["find"].submit, elems["find"].blur],
        page.handle(page.first),
        inputs,
        outputs,
        **IN_TURN,
    )
    elems["newer_btn"].click(page.handle(page.newer), inputs, outputs, **IN_TURN)
    elems["older_btn"].click(page.handle(page.older), inputs, outputs, **IN_TURN)
    for name in _ACTIONS:
        more = list(manager.elems("top", "train")) if name == "open_btn" else []
        elems[name].click(page.handle(getattr(page, name.removesuffix("_btn"))), inputs, [*outputs, *more], **IN_TURN)
