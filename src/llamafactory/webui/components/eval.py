# SPDX-License-Identifier: Apache-2.0
"""The tab that evaluates: what to do, the run, its figures beside those of earlier ones, predictions row by row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...extras.errors import ConfigError
from ..drawing.reports import text as html_text
from ..drawing.results import ROWS, list_predictions, list_results, predictions_shown, read_predictions, results_table
from ..fields.choices import offer_datasets
from ..texts.texts import parts
from .form import check_when_changed, create_form
from .watch import html
from .widgets import IN_TURN, QUICK, button, offer_when_opened

if TYPE_CHECKING:
    from gradio.blocks import Block

    from ..engine import Engine


def create_eval_tab(engine: Engine) -> dict[str, Block]:
    """Build the tab; gives its elements by name."""
    import gradio as gr

    language = engine.language
    tab: Any = gr.context.Context.block
    elems: dict[str, Any] = create_form(engine, "eval") | _results(gr, language)
    engine.manager.add_elems("eval", elems)
    _connect(gr, engine, elems, tab)
    return elems


def _results(gr: Any, language: str) -> dict[str, Any]:
    """Where figures and predictions are shown."""
    elems: dict[str, Any] = {"first": gr.State(0)}
    with gr.Accordion(open=True, elem_id="eval-results-box", **parts(language, "eval.results_box")) as box:
        elems["results_box"] = box
        elems["results"] = html(results_table(list_results(), language), elem_id="eval-results")
        with gr.Row(elem_classes=["buttons"]):
            elems["refresh_btn"] = button(language, "eval.refresh_btn", size="sm")
    with gr.Accordion(open=False, elem_id="eval-rows-box", **parts(language, "eval.rows_box")) as box:
        elems["rows_box"] = box
        with gr.Row(elem_classes=["fields"]):
            elems["predictions"] = gr.Dropdown(
                list_predictions(), value=None, interactive=True, elem_id="eval-predictions",
                **parts(language, "eval.predictions"),
            )  # fmt: skip
            elems["row"] = gr.Textbox("1", interactive=True, elem_id="eval-row", **parts(language, "eval.row"))
        elems["rows"] = html(elem_id="eval-rows")
        with gr.Row(elem_classes=["buttons"]):
            elems["rows_back"] = button(language, "eval.rows_back", size="sm")
            elems["rows_on"] = button(language, "eval.rows_on", size="sm")
    return elems


def _connect(gr: Any, engine: Engine, elems: dict[str, Any], tab: Any) -> None:
    runner, manager = engine.runner, engine.manager
    inputs, outputs = runner.inputs("eval"), runner.outputs("eval")
    for name, work in (("cmd_preview_btn", runner.preview), ("stop_btn", runner.abort)):
        elems[name].click(runner.handle("eval", work), inputs, outputs, **IN_TURN)
    elems["start_btn"].click(runner.run_eval, inputs, outputs, trigger_mode="once", **IN_TURN)
    check_when_changed(engine, "eval", tab)
    offer_when_opened(elems["dataset"], offer_datasets, [elems["dataset_dir"]])
    lang = manager.get_elem_by_id("top.lang")
    elems["refresh_btn"].click(refresh, [lang], [elems["results"], elems["predictions"]], **QUICK)
    # Its run has ended, or the page was opened and the last one had.
    elems["seen"].change(
        lambda seen, language: refresh(language) if (seen or {}).get("over") else (gr.skip(), gr.skip()),
        [elems["seen"], lang], [elems["results"], elems["predictions"]], **QUICK,
    )  # fmt: skip
    shown = [elems["rows"], elems["first"], elems["row"]]
    elems["predictions"].change(
        lambda lang, path: show_rows(lang, path, 0), [lang, elems["predictions"]], shown, **QUICK
    )
    for name, step in (("rows_back", -ROWS), ("rows_on", ROWS)):
        elems[name].click(
            lambda lang, path, first, step=step: show_rows(lang, path, first + step),
            [lang, elems["predictions"], elems["first"]], shown, **QUICK,
        )  # fmt: skip
    elems["row"].submit(go_to, [lang, elems["predictions"], elems["row"], elems["first"]], shown, **QUICK)


def refresh(language: str) -> tuple[Any, Any]:
    """The table of results and the list of predictions as they are now."""
    import gradio as gr

    return gr.update(value=results_table(list_results(), language)), gr.update(choices=list_predictions())


def show_rows(language: str, path: str | None, first: int) -> tuple[str, int, str]:
    """A page of predictions, the number of its first row, and that number for people."""
    import gradio as gr

    if not path:
        return "", 0, "1"
    try:
        rows, total = read_predictions(path, max(0, first))
    except ConfigError as error:
        gr.Warning(html_text(error))
        return "", 0, "1"
    first = max(0, min(first, total - 1))
    return predictions_shown(rows, first, total, language), first, str(first + 1)


def go_to(language: str, path: str | None, number: str, first: int) -> tuple[str, int, str]:
    """The page that begins with a row; the one that is shown where that is no number."""
    return show_rows(language, path, int(number) - 1 if str(number).strip().isdecimal() else first)
