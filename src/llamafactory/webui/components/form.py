# SPDX-License-Identifier: Apache-2.0
"""A tab that starts runs: its fields, what will run, and the run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..fields.fields import fields_of
from .more_keys import create_more_keys
from .watch import create_preview, create_watch, html
from .widgets import button, make_fields

if TYPE_CHECKING:
    from gradio.blocks import Block

    from ..engine import Engine


def create_form(engine: Engine, tab: str, marked: bool = False) -> dict[str, Block]:
    """Build fields, buttons and the place of the run of a tab whose groups of fields are rows; elements by name.

    Args:
        engine: What is behind the page.
        tab: The tab.
        marked: Fields that have no effect are greyed out; the tab looks at them again when one is changed.
    """
    import gradio as gr

    language = engine.language
    marks = engine.runner.first_marks(tab, language) if marked else {}
    off = {name: reason for name, (_, reason) in marks.items()}
    elems: dict[str, Any] = {"marks": gr.State(marks)}
    for group in dict.fromkeys(field.group for field in fields_of(tab)):
        with gr.Row(elem_classes=["fields"]):
            elems |= make_fields(tab, language, group, off)
    elems |= create_more_keys(engine, tab, elems)
    with gr.Row(elem_classes=["buttons"]):
        elems["cmd_preview_btn"] = button(language, f"{tab}.cmd_preview_btn")
        elems["start_btn"] = button(language, f"{tab}.start_btn", variant="primary")
        elems["stop_btn"] = button(language, f"{tab}.stop_btn", variant="stop", interactive=False)
    elems["problems"] = html(visible=False, elem_id=f"{tab}-problems")
    return elems | create_preview(tab, language) | create_watch(tab, language)
