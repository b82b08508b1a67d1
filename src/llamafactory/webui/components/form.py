# SPDX-License-Identifier: Apache-2.0
"""A tab that starts runs: its fields, what will run, and the run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..fields.fields import COMMON, fields_of
from .more_keys import create_more_keys
from .watch import create_preview, create_watch, html
from .widgets import IN_TURN, QUICK, button, changed, make_fields

if TYPE_CHECKING:
    from gradio.blocks import Block

    from ..engine import Engine


def create_form(engine: Engine, tab: str) -> dict[str, Block]:
    """Build fields, buttons and the place of the run of a tab whose groups of fields are rows; elements by name.

    Args:
        engine: What is behind the page.
        tab: The tab.
    """
    import gradio as gr

    language = engine.language
    marks = engine.runner.first_marks(tab, language)
    off = {name: reason for name, (_, reason) in marks.items()}
    elems: dict[str, Any] = {"marks": gr.State(marks), "above": gr.State(None)}
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


def check_when_changed(engine: Engine, name: str, tab: Any) -> None:
    """Look at the fields of a tab again when one of them, or one above the tabs, was changed.

    Args:
        engine: What is behind the page; it has the elements of the tab already.
        name: The tab's.
        tab: The tab itself.
    """
    import gradio as gr

    runner, manager = engine.runner, engine.manager
    check, inputs, marked = runner.handle(name, runner.check), runner.inputs(name), runner.checked_outputs(name)
    # Not when a field above the tabs is changed: the tab that trains listens there, and gradio lets two handlers of one
    # event, each of which wants to be the last, call each other again and again.
    fields = [changed(elem) for field, elem in manager.named(name) if field in COMMON]
    gr.on(fields, check, inputs, marked, trigger_mode="always_last", **IN_TURN)
    # Nor whenever the tab is opened: a handler of so many fields costs the browser as much as drawing them does.
    above: Any = manager.get_elem_by_id(f"{name}.above")
    tab.select(lambda now: now, manager.get_elem_by_id("train.above"), above, **QUICK)
    above.change(check, inputs, marked, **IN_TURN)
