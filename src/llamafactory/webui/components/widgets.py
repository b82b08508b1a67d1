# SPDX-License-Identifier: Apache-2.0
"""From a row of the table of fields to what stands on the page."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ...hparams.coercion import as_written
from ..fields.fields import Field, fields_of
from ..texts.texts import parts

if TYPE_CHECKING:
    from gradio.blocks import Block

# Longer lists are looked through by typing; all of them would take the browser a moment to draw.
_SHOWN = 60
# Of a handler that does not hold up others, or the page.
QUICK: dict[str, Any] = {
    # gradio tells every element that ever was an output how each later event stands, unless it is told of none.
    "show_progress": "hidden", "show_progress_on": [], "api_visibility": "private", "concurrency_limit": None,
}  # fmt: skip
_WIDTHS = {"switch": 170, "number": 150, "slider": 220, "choice": 150, "multi": 240}


def make_fields(
    tab: str,
    language: str,
    group: str | None = None,
    off: Mapping[str, str] | None = None,
    choices: Mapping[str, tuple[str, ...]] | None = None,
) -> dict[str, Block]:
    """Build the fields in front of one tab (of one group of it), by their names in the tab.

    Args:
        tab: The tab.
        language: Of the labels.
        group: Of the tab.
        off: Why fields have no effect at first, by id.
        choices: Of fields whose table does not have them, by id.
    """
    found = {}
    for field in fields_of(tab, group):
        reason = (off or {}).get(field.id)
        more = {} if reason is None else {"interactive": False, "info": reason, "elem_classes": ["off"]}
        known = replace(field, choices=(choices or {}).get(field.id, field.choices))
        found[field.name] = make(known, language, **more)
    return found


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
    texts: dict[str, Any] = {"label": field.key or field.name, "info": field.help or None}
    texts |= parts(language, field.id)
    names = {choice: name for name, choice in texts.pop("choices", ())}
    settings: dict[str, Any] = {
        "interactive": True, "elem_id": field.id.replace(".", "-"), "min_width": _WIDTHS.get(field.widget, 180),
        **texts, **more,
    }  # fmt: skip
    match field.widget:
        case "switch":
            return gr.Checkbox(bool(value), **settings)
        case "slider" if field.low is not None and field.high is not None:
            return gr.Slider(field.low, field.high, value, step=field.step, **settings)
        case "choice":
            choices = [(names.get(choice, choice or "–"), choice) for choice in field.choices]
            return gr.Dropdown(
                choices, value=_among(field, value), allow_custom_value=field.free, num_choices_shown=_SHOWN, **settings
            )
        case "multi":
            return gr.Dropdown(
                list(field.choices), value=value or [], multiselect=True, allow_custom_value=field.free,
                num_choices_shown=_SHOWN, **settings,
            )  # fmt: skip
        case "json":
            shown = value if isinstance(value, str) or value is None else json.dumps(value)
            return gr.Textbox(shown or "", lines=1, max_lines=6, **settings)
        case _:
            # Numbers too: gradio's own box shows nothing as 0, and takes no 1e-5.
            return gr.Textbox("" if value is None else str(value), **settings)


def _among(field: Field, value: Any) -> Any:
    if value is None:
        return "" if "" in field.choices else None
    return as_written(value)


def button(language: str, name: str, **more: Any) -> Any:
    """A button with its text; its element is called as its text is."""
    import gradio as gr

    texts = {"value": parts(language, name).get("value", name)}
    return gr.Button(elem_id=name.replace(".", "-"), min_width=110, **texts, **more)


def changed(elem: Any) -> Any:
    """When a field was changed: text when it is left, so that nothing is said of a half-written word."""
    import gradio as gr

    return elem.blur if isinstance(elem, gr.Textbox | gr.Number) else elem.change
