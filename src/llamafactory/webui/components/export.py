# SPDX-License-Identifier: Apache-2.0
"""The tab that exports: where to, in which form, the job, its proof, and where the result runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..fields import fields_of
from .more_keys import create_more_keys
from .train import QUICK, button
from .watch import create_preview, create_watch, html
from .widgets import make_fields

if TYPE_CHECKING:
    from gradio.blocks import Block

    from ..engine import Engine


def create_export_tab(engine: Engine) -> dict[str, Block]:
    """Build the tab; gives its elements by name."""
    import gradio as gr

    language = engine.language
    elems: dict[str, Any] = {"marks": gr.State({})}
    for group in dict.fromkeys(field.group for field in fields_of("export")):
        with gr.Row(elem_classes=["fields"]):
            elems |= make_fields("export", language, group)
    top = {name.partition(".")[2]: elem for name, elem in engine.manager.named("top")}
    elems |= create_more_keys(engine, "export", elems, top)
    with gr.Row(elem_classes=["buttons"]):
        elems["cmd_preview_btn"] = button(language, "export.cmd_preview_btn")
        elems["start_btn"] = button(language, "export.start_btn", variant="primary")
        elems["stop_btn"] = button(language, "export.stop_btn", variant="stop", interactive=False)
    elems["problems"] = html(visible=False, elem_id="export-problems")
    elems |= create_preview("export", language)
    elems |= create_watch("export", language)
    elems["proof"] = html(elem_id="export-proof")
    engine.manager.add_elems("export", elems)
    runner = engine.runner
    inputs, outputs = runner.inputs("export"), runner.outputs("export")
    for name, work in (("cmd_preview_btn", runner.preview), ("start_btn", runner.start), ("stop_btn", runner.abort)):
        elems[name].click(runner.handle("export", work), inputs, outputs, trigger_mode="once", **QUICK)
    return elems
