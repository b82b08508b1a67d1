# SPDX-License-Identifier: Apache-2.0
"""The tab that exports: where to, in which form, the job, its proof, and where the result runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .form import check_when_changed, create_form
from .watch import html
from .widgets import IN_TURN

if TYPE_CHECKING:
    from gradio.blocks import Block

    from ..engine import Engine


def create_export_tab(engine: Engine) -> dict[str, Block]:
    """Build the tab; gives its elements by name."""
    import gradio as gr

    tab: Any = gr.context.Context.block
    elems: dict[str, Any] = create_form(engine, "export")
    elems["proof"] = html(elem_id="export-proof")
    engine.manager.add_elems("export", elems)
    runner = engine.runner
    inputs, outputs = runner.inputs("export"), runner.outputs("export")
    for name, work in (("cmd_preview_btn", runner.preview), ("start_btn", runner.start), ("stop_btn", runner.abort)):
        elems[name].click(runner.handle("export", work), inputs, outputs, trigger_mode="once", **IN_TURN)
    check_when_changed(engine, "export", tab)
    return elems
