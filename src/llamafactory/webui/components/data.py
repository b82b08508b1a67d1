# SPDX-License-Identifier: Apache-2.0
"""The tab for data: a file looked at, its mapping, its rows checked and shown, its entry written."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ... import plugins
from ..fields.choices import list_datasets, offer_datasets
from ..fields.fields import COMMON
from ..handlers import data_page
from ..handlers.datasets import PARTS, TAGS, endings
from ..texts.texts import parts
from .watch import html
from .widgets import QUICK, button, offer_when_opened

if TYPE_CHECKING:
    from gradio.blocks import Block

    from ..engine import Engine

# What the rows of a set become depends on these as well.
_OF_TRAINING = (
    "training_stage",
    "cutoff_len",
    "packing",
    "train_on_prompt",
    "mask_history",
    "enable_thinking",
    "extra_args",
)


def create_data_tab(engine: Engine) -> dict[str, Block]:
    """Build the tab; gives its elements by name."""
    import gradio as gr

    language = engine.language
    elems: dict[str, Any] = {"rows_from": gr.State(0)}
    with gr.Row(elem_classes=["fields"]):
        elems["upload"] = gr.File(
            file_types=endings(), height=120, elem_id="data-upload", **parts(language, "data.upload")
        )
        with gr.Column():
            elems["path"] = _text(gr, language, "data.path")
            elems["look_btn"] = button(language, "data.look_btn")
        with gr.Column():
            elems["registered"] = gr.Dropdown(
                list_datasets("data"), value=None, interactive=True, elem_id="data-registered",
                **parts(language, "data.registered"),
            )  # fmt: skip
            elems["edit_btn"] = button(language, "data.edit_btn")
    elems["problems"] = html(visible=False, elem_id="data-problems")
    elems["found"] = html(visible=False, elem_id="data-found")
    elems |= _mapping(gr, language)
    with gr.Row(elem_classes=["buttons"]):
        elems["check_btn"] = button(language, "data.check_btn")
        elems["preview_btn"] = button(language, "data.preview_btn")
        elems["rows_back"] = button(language, "data.rows_back", size="sm")
        elems["rows_on"] = button(language, "data.rows_on", size="sm")
    elems["report"] = html(visible=False, elem_id="data-report")
    elems["rows"] = html(visible=False, elem_id="data-rows")
    with gr.Row(elem_classes=["fields"]):
        elems["name"] = _text(gr, language, "data.name")
        elems["dataset_dir"] = _text(gr, language, "data.dataset_dir", "data")
        elems["anew"] = gr.Checkbox(False, interactive=True, elem_id="data-anew", **parts(language, "data.anew"))
        elems["register_btn"] = button(language, "data.register_btn", variant="primary")
    engine.manager.add_elems("data", elems)
    _connect(gr, engine, elems)
    return elems


def _text(gr: Any, language: str, name: str, value: str = "") -> Any:
    return gr.Textbox(value, interactive=True, elem_id=name.replace(".", "-"), **parts(language, name))


def _mapping(gr: Any, language: str) -> dict[str, Any]:
    """Which column holds which part of a row."""
    elems: dict[str, Any] = {}
    with gr.Row(elem_classes=["fields"]):
        elems["formatting"] = gr.Dropdown(
            list(plugins.names("formats")), value="alpaca", interactive=True, min_width=150, elem_id="data-formatting",
            **parts(language, "data.formatting"),
        )  # fmt: skip
        elems["ranking"] = gr.Checkbox(
            False, interactive=True, elem_id="data-ranking", **parts(language, "data.ranking")
        )
        for part in PARTS:
            elems[f"column_{part}"] = gr.Dropdown(
                [""], value="", interactive=True, allow_custom_value=True, min_width=150, elem_id=f"data-column-{part}",
                **parts(language, f"data.column_{part}"),
            )  # fmt: skip
    with gr.Accordion(open=False, elem_classes=["group"], **parts(language, "data.tags_box")) as box:
        elems["tags_box"] = box
        with gr.Row(elem_classes=["fields"]):
            for name in TAGS:
                elems[f"tag_{name}"] = gr.Textbox(
                    "", label=name, interactive=True, min_width=150, elem_id=f"data-tag-{name}"
                )
    return elems


def _connect(gr: Any, engine: Engine, elems: dict[str, Any]) -> None:
    runner, manager = engine.runner, engine.manager
    settings = [f"train.{name}" for name in _OF_TRAINING if f"train.{name}" in COMMON]
    others = {manager.get_elem_by_id(name) for name in ("top.lang", *settings) if manager.has(name)}
    shown = ("problems", "found", "report", "rows", "look_btn", "edit_btn", "check_btn", "preview_btn")
    given = {elem for name, elem in elems.items() if not name.endswith(("_btn", "_box")) and name not in shown}
    inputs = manager.get_fields("top") | others | (given - {elems["rows_back"], elems["rows_on"]})
    outputs = list(elems.values())

    def on(event: Any, work: Callable[..., Any], **more: Any) -> None:
        def guarded(asked: Any) -> Any:
            runner.refuse_in_demo(asked)
            return work(asked)

        event(runner.handle("data", guarded), inputs, outputs, **{**QUICK, **more})

    on(elems["upload"].upload, data_page.upload)
    on(elems["look_btn"].click, data_page.look)
    on(elems["path"].submit, data_page.look)
    on(elems["edit_btn"].click, data_page.edit)
    on(elems["register_btn"].click, data_page.save, trigger_mode="once")
    slow = {"show_progress": "minimal", "trigger_mode": "once"}
    on(elems["check_btn"].click, data_page.check, show_progress_on=[elems["check_btn"]], **slow)
    on(elems["preview_btn"].click, data_page.preview, show_progress_on=[elems["preview_btn"]], **slow)
    on(elems["rows_back"].click, lambda asked: data_page.preview(asked, -1), **slow)
    on(elems["rows_on"].click, lambda asked: data_page.preview(asked, 1), **slow)
    offer_when_opened(elems["registered"], offer_datasets, [elems["dataset_dir"]], first=offer_datasets("data"))
