# SPDX-License-Identifier: Apache-2.0
"""The keys that are not in front: folded groups, and a box that finds any key; each is made when somebody looks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..drawing.reports import text as html_text
from ..fields.applicability import reason_off
from ..fields.field_search import search
from ..fields.fields import COMMON, Field, all_groups
from ..fields.set_keys import set_key, show_set
from ..texts.texts import parts, text
from .watch import html
from .widgets import IN_TURN, changed, make

if TYPE_CHECKING:
    from gradio.blocks import Block

    from ..engine import Engine

_FOUND = 12  # answers of the search box


def create_more_keys(engine: Engine, tab: str, front: Mapping[str, Block]) -> dict[str, Block]:
    """Build the folded groups of a tab.

    Args:
        engine: What is behind the page.
        tab: The tab.
        front: Its fields in front, by name: what is chosen there, and above the tabs, says which keys have an effect.

    Returns:
        Elements by name; ``more`` holds what was set, field id to value.
    """
    import gradio as gr

    language = engine.language
    fields = {f"{tab}.{name}": elem for name, elem in front.items() if f"{tab}.{name}" in COMMON}
    fields |= {name: elem for name, elem in engine.manager.named("top") if name in COMMON}
    more = gr.State({})
    spoken: Any = engine.manager.get_elem_by_id("top.lang")
    inputs = [spoken, more, *fields.values()]
    # In turn too: a key that was just set would be drawn with its old value, and take that when it is left.
    drawn = {name: IN_TURN[name] for name in ("show_progress", "concurrency_id", "concurrency_limit")}
    with gr.Accordion(open=False, elem_id=f"{tab}-more", **parts(language, "more_box")) as box:
        words = gr.Textbox(elem_id=f"{tab}-search", **parts(language, "search"))
        chosen = html(elem_id=f"{tab}-set")

        def render(found: Sequence[Field], lang: str, kept: dict[str, Any], given: Sequence[Any]) -> None:
            values = {**dict(zip(fields, given, strict=True)), **kept}
            if found:
                with gr.Row(elem_classes=["fields"]):
                    for field in found:
                        _render(field, lang, values, tab, more, chosen)

        @gr.render([words, *inputs], [words.change, spoken.input], **drawn)
        def answers(asked: str, lang: str, kept: dict[str, Any], *given: Any) -> None:
            fitting = [field for field in search(asked, lang, most=200) if field.tab in ("top", tab)]
            render(fitting[:_FOUND], lang, kept, given)

        sections: dict[str, Block] = {}
        for name in all_groups(tab):
            title = text(language, f"section.{name}") or name  # a plug-in's section has its own name
            with gr.Accordion(title, open=False, elem_classes=["group"]) as group:
                sections[f"section.{name}"] = group

                @gr.render(inputs, [group.expand], **drawn)
                def members(lang: str, kept: dict[str, Any], *given: Any, name: str = name) -> None:
                    render(all_groups(tab)[name], lang, kept, given)

        engine.manager.add_elems(f"{tab}_more", sections)  # no handler of the tab changes them
        clear = gr.Button(size="sm", elem_id=f"{tab}-clear-more", **parts(language, "clear_more"))
        clear.click(lambda: ({}, ""), None, [more, chosen], **IN_TURN)
    return {"more": more, "more_box": box, "search": words, "more_set": chosen, "clear_more": clear}


def _render(field: Field, lang: str, values: Mapping[str, Any], tab: str, more: Block, chosen: Block) -> None:
    """One key: a widget, or for one that is in front, where it is."""
    if field.id in COMMON:
        label = parts(lang, field.id).get("label", field.name)
        place = f"{text(lang, f'tabs.{field.tab}') or ''} › {label}".strip(" ›")
        html(f"<p><code>{html_text(field.key or field.name)}</code>: {html_text(place)}</p>")
        return
    reason = reason_off(field, values, lang)
    help_text = f"{field.help} ({reason})" if reason else field.help
    widget: Any = make(
        field, lang, values.get(field.id), label=field.key, info=help_text or None, interactive=reason is None,
        elem_classes=["off" if reason else "key"],
    )  # fmt: skip

    def keep(value: Any, kept: dict[str, Any]) -> tuple[dict[str, Any], str]:
        kept = set_key(kept, field, value)
        return kept, show_set(kept, tab)

    # Each time, and in turn: none may be skipped because the one before it is not answered yet.
    changed(widget)(keep, [widget, more], [more, chosen], trigger_mode="multiple", **IN_TURN)
