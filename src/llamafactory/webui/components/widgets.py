# SPDX-License-Identifier: Apache-2.0
"""From a row of the table of fields to what stands on the page."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ..fields import Field, fields_of
from ..texts.texts import parts

if TYPE_CHECKING:
    from gradio.blocks import Block


def make_fields(tab: str, language: str, group: str | None = None) -> dict[str, Block]:
    """Build the fields in front of one tab (of one group of it), by their names in the tab."""
    return {field.name: make(field, language) for field in fields_of(tab, group)}


def make(field: Field, language: str, value: Any = None, **more: Any) -> Block:
    """Build one field.

    Args:
        field: A row of the table.
        language: Of its label.
        value: What it shows; ``None`` = the default.
        more: Further arguments of the component.
    """
    import gradio as gr

    value = field.default if value is None else value
    texts = {"label": field.key or field.name, "info": field.help or None, **parts(language, field.id)}
    settings: dict[str, Any] = {"interactive": True, "elem_id": field.id.replace(".", "-"), **texts, **more}
    match field.widget:
        case "switch":
            return gr.Checkbox(bool(value), **settings)
        case "number":
            bounds = {"minimum": field.low, "maximum": field.high}
            return gr.Number(value, **bounds, step=field.step, **settings)
        case "slider":
            return gr.Slider(field.low, field.high, value, step=field.step, **settings)
        case "choice":
            return gr.Dropdown(list(field.choices), value=value, allow_custom_value=field.free, **settings)
        case "multi":
            return gr.Dropdown(
                list(field.choices), value=value or [], multiselect=True, allow_custom_value=field.free, **settings
            )
        case "json":
            shown = value if isinstance(value, str) else json.dumps(value if value is not None else {})
            return gr.Textbox(shown, lines=2, **settings)
        case _:
            return gr.Textbox("" if value is None else str(value), **settings)
