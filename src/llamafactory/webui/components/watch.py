# SPDX-License-Identifier: Apache-2.0
"""A run before it starts and as it goes on; the same on every tab that starts runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..texts.texts import parts

if TYPE_CHECKING:
    from gradio.blocks import Block


def create_watch(tab: str, language: str) -> dict[str, Block]:
    """Build the part of a tab that shows its run; gives its elements by name."""
    import gradio as gr

    job, seen = gr.State(None), gr.State({})
    progress = html(elem_id=f"{tab}-progress")
    curves = html(elem_id=f"{tab}-curves")
    output = gr.Textbox(
        lines=12, max_lines=12, interactive=False, autoscroll=False, visible=False, buttons=["copy"],
        elem_id=f"{tab}-output", elem_classes=["log"], **parts(language, f"{tab}.output_box"),
    )  # fmt: skip
    return {"job": job, "seen": seen, "progress_bar": progress, "loss_viewer": curves, "output_box": output}


def create_preview(tab: str, language: str) -> dict[str, Block]:
    """Build the part of a tab that shows the command and the file of a run."""
    import gradio as gr

    settings: dict[str, Any] = {"interactive": False, "visible": False, "wrap_lines": True, "lines": 1, "max_lines": 40}

    def code(name: str, kind: Any) -> Block:
        return gr.Code(language=kind, elem_id=f"{tab}-{name}", **settings, **parts(language, f"{tab}.{name}"))

    return {"previewed": gr.State(False), "command": code("command", "shell"), "yaml": code("yaml", "yaml")}


def html(value: str = "", visible: bool = True, elem_id: str | None = None) -> Block:
    """A place for HTML of our own, in one line and escaped where it is written.

    gradio's own component for it builds code out of text in the browser, which the page's policy forbids.
    """
    import gradio as gr

    return gr.Markdown(
        value, visible=visible, elem_id=elem_id, sanitize_html=False, latex_delimiters=[], elem_classes=["html"]
    )
