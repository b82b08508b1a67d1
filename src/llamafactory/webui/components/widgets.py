# SPDX-License-Identifier: Apache-2.0
"""From a row of the table of fields to what stands on the page."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
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
# Of one that reads or writes what handlers keep for each other: the keys that were set, what is said of fields, the
# run that is shown. gradio begins events in any order and runs them side by side: a run would start without the key
# that was typed just before, and a late look at the last run be shown over the new one.
IN_TURN: dict[str, Any] = {**QUICK, "concurrency_id": "in_turn", "concurrency_limit": 1}
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


def after_others(event: Any, work: Any, inputs: Any, outputs: Any, **more: Any) -> Any:
    """Bind what takes seconds: it begins when what was asked before it is done, and holds up nobody."""
    return event(lambda: None, None, None, **IN_TURN).then(work, inputs, outputs, **{**QUICK, **more})


Offered = tuple[str, list[Any]]  # what a list has: of which place, and its entries


def offer_when_opened(
    elem: Any, find: Callable[..., Offered], inputs: Sequence[Any], offered: Any = None, first: Offered = ("", [])
) -> None:
    """Bring a list of what is on disk up to date when it is opened.

    The entries alone: the answer may come when something of the list is chosen already. While it is open nothing that
    it had moves, or a click would meet another entry than it was meant for: what is new stands at its end until it is
    closed.

    Args:
        elem: The list.
        find: Gives what there is, of ``inputs``.
        inputs: The elements that say where to look.
        offered: Holds what the list has, where others fill it too.
        first: What it has when the page opens.
    """
    import gradio as gr

    offered = gr.State(first) if offered is None else offered
    for event, opened in ((elem.focus, True), (elem.blur, False)):
        event(partial(list_news, find, opened), [*inputs, offered], [elem, offered], **QUICK)


def list_news(find: Callable[..., Offered], opened: bool, *given: Any) -> tuple[Any, Any]:
    """Change of a list, unless it has what there is, and what it has then.

    Args:
        find: See :func:`offer_when_opened`.
        opened: Somebody looks at it.
        given: What ``find`` takes, and what the list has.
    """
    import gradio as gr

    *places, (place, shown) = given
    where, found = find(*places)
    if opened and where == place:
        known = set(shown)
        found = [*shown, *(one for one in found if one not in known)]
    now = (where, found)
    return (gr.skip(), gr.skip()) if now == (place, shown) else (gr.update(choices=found), now)


def changed(elem: Any) -> Any:
    """When a field was changed: text when it is left, so that nothing is said of a half-written word."""
    import gradio as gr

    return elem.blur if isinstance(elem, gr.Textbox | gr.Number) else elem.change
