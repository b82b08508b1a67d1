# SPDX-License-Identifier: Apache-2.0
"""The tab that trains: fields, what will run, and the run."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..fields.choices import list_devices, offer_datasets
from ..fields.configuration import example_files, list_presets
from ..fields.fields import COMMON, fields_of
from ..handlers import presets_page as presets
from ..texts.texts import parts
from .more_keys import create_more_keys
from .watch import create_preview, create_watch, html
from .widgets import IN_TURN, after_others, button, changed, make_fields, offer_when_opened

if TYPE_CHECKING:
    from gradio.blocks import Block

    from ..engine import Engine
    from ..runner import Asked, Changes

_IN_FRONT = ("data", "basic", "batch")  # groups that are not folded
_AT_THE_END = "run"


def create_train_tab(engine: Engine) -> dict[str, Block]:
    """Build the tab; gives its elements by name."""
    import gradio as gr

    language = engine.language
    marks = engine.runner.first_marks("train", language)
    off = {name: reason for name, (_, reason) in marks.items()}
    elems: dict[str, Any] = {"marks": gr.State(marks), "rows_from": gr.State(0), "above": gr.State(None)}
    groups = list(dict.fromkeys(field.group for field in fields_of("train")))
    for group in groups:
        if group in _IN_FRONT:
            with gr.Row(elem_classes=["fields"]):
                elems |= make_fields("train", language, group, off)
                if group == "data":
                    elems["data_preview_btn"] = button(language, "train.data_preview_btn")
            elems |= _rows(gr, language) if group == "data" else {}
        elif group != _AT_THE_END:
            with gr.Accordion(open=False, elem_classes=["group"], **parts(language, f"group.{group}")) as box:
                elems[f"group.{group}"] = box
                with gr.Row(elem_classes=["fields"]):
                    elems |= make_fields("train", language, group, off)
    elems |= create_more_keys(engine, "train", elems)
    elems |= _presets(gr, language)
    elems |= _run(gr, language)
    elems |= create_watch("train", language)
    engine.manager.add_elems("train", elems)
    _connect(gr, engine, elems)
    return elems


def _rows(gr: Any, language: str) -> dict[str, Any]:
    """Where rows of the data are shown."""
    elems: dict[str, Any] = {}
    with gr.Accordion(visible=False, open=False, elem_id="train-rows-box", **parts(language, "train.rows_box")) as box:
        elems["rows_box"], elems["rows"] = box, html(elem_id="train-rows")
        with gr.Row(elem_classes=["buttons"]):
            elems["rows_back"] = button(language, "train.rows_back", size="sm")
            elems["rows_on"] = button(language, "train.rows_on", size="sm")
    return elems


def _presets(gr: Any, language: str) -> dict[str, Any]:
    with gr.Row(elem_classes=["fields"]):
        preset = gr.Dropdown(
            list_presets(), allow_custom_value=True, interactive=True, value=None, elem_id="train-preset",
            **parts(language, "train.preset"),
        )  # fmt: skip
        save = button(language, "train.arg_save_btn")
        load = button(language, "train.arg_load_btn")
        example = gr.Dropdown(
            example_files(), value=None, interactive=True, elem_id="train-example", **parts(language, "train.example")
        )
        opened = button(language, "train.example_btn")
    return {"preset": preset, "arg_save_btn": save, "arg_load_btn": load, "example": example, "example_btn": opened}


def _run(gr: Any, language: str) -> dict[str, Any]:
    """Where it goes, on which devices, and the buttons."""
    elems: dict[str, Any] = {}
    with gr.Row(elem_classes=["fields"]):
        elems |= make_fields("train", language, _AT_THE_END)
        elems["devices"] = gr.Dropdown(
            list_devices(), multiselect=True, allow_custom_value=True, interactive=True, value=[],
            elem_id="train-devices", **parts(language, "train.devices"),
        )  # fmt: skip
    with gr.Accordion(open=False, elem_classes=["group"], **parts(language, "group.nodes")) as box, gr.Row():
        elems["group.nodes"] = box
        for name in ("nnodes", "node_rank", "master_addr", "master_port"):
            elems[name] = gr.Textbox("", interactive=True, min_width=120, **parts(language, f"train.{name}"))
    with gr.Row(elem_classes=["buttons"]):
        elems["cmd_preview_btn"] = button(language, "train.cmd_preview_btn")
        elems["plan_btn"] = button(language, "train.plan_btn")
        elems["start_btn"] = button(language, "train.start_btn", variant="primary")
        elems["stop_btn"] = button(language, "train.stop_btn", variant="stop", interactive=False)
    elems["problems"] = html(visible=False, elem_id="train-problems")
    elems["plan"] = html(visible=False, elem_id="train-plan")
    elems |= create_preview("train", language)
    return elems


def _connect(gr: Any, engine: Engine, elems: dict[str, Any]) -> None:
    runner, manager = engine.runner, engine.manager
    inputs, outputs = runner.inputs("train"), runner.outputs("train")

    def on(event: Any, work: Callable[..., Any], **more: Any) -> None:
        event(runner.handle("train", work), inputs, outputs, **IN_TURN, **more)

    def save(asked: Asked) -> Changes:
        runner.refuse_in_demo(asked)
        return presets.save(asked)

    on(elems["cmd_preview_btn"].click, runner.preview)
    for name, work in (
        ("plan_btn", runner.estimate),
        ("data_preview_btn", runner.preview_rows),
        ("rows_back", lambda asked: runner.preview_rows(asked, -1)),
        ("rows_on", lambda asked: runner.preview_rows(asked, 1)),
    ):
        shown = {"show_progress_on": [elems[name]], "show_progress": "minimal"}
        after_others(elems[name].click, runner.handle("train", work), inputs, outputs, **shown)
    elems["start_btn"].click(runner.run_train, inputs, outputs, trigger_mode="once", **IN_TURN)
    on(elems["stop_btn"].click, runner.abort)
    on(elems["arg_save_btn"].click, save, trigger_mode="always_last")
    on(elems["arg_load_btn"].click, presets.load, trigger_mode="always_last")
    elems["example_btn"].click(
        lambda lang, path: manager.answer(presets.open_example("train", lang, path)),
        [manager.get_elem_by_id("top.lang"), elems["example"]], outputs, trigger_mode="always_last", **IN_TURN,
    )  # fmt: skip
    offer_when_opened(elems["preset"], lambda: ("", list_presets()), [], first=("", list_presets()))
    offer_when_opened(elems["dataset"], offer_datasets, [elems["dataset_dir"]])
    gr.on(
        [changed(manager.get_elem_by_id(name)) for name in COMMON if name.partition(".")[0] in ("top", "train")],
        runner.handle("train", runner.check), inputs, runner.checked_outputs("train"), trigger_mode="always_last",
        **IN_TURN,
    )  # fmt: skip
