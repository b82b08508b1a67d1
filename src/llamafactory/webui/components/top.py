# SPDX-License-Identifier: Apache-2.0
"""Above the tabs: language, model, tuner, and how the model is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...model.catalogue.catalogue import load
from ..choices import list_checkpoints
from ..common import language, save_config
from ..configuration import save_folder
from ..texts.texts import LANGUAGES, parts
from .widgets import QUICK, make_fields

if TYPE_CHECKING:
    from gradio.blocks import Block


def create_top(remember: bool = True) -> dict[str, Block]:
    """Build what all tabs share; gives its elements by name.

    Args:
        remember: Keep what is chosen for the next visit.
    """
    import gradio as gr

    chosen = language()
    elems: dict[str, Any] = {}
    with gr.Row(elem_id="top", elem_classes=["fields"]):
        elems["lang"] = gr.Dropdown(
            list(LANGUAGES), value=chosen, interactive=True, scale=1, min_width=90, elem_id="top-lang",
            **parts(chosen, "top.lang"),
        )  # fmt: skip
        elems |= make_fields("top", chosen, "main", choices={"top.model_name": tuple(load())})
    with (
        gr.Accordion(open=False, elem_id="top-more", **parts(chosen, "group.top.model")) as box,
        gr.Row(elem_classes=["fields"]),
    ):
        elems |= make_fields("top", chosen, "model")
    elems["model_box"] = box
    _connect(gr, elems, remember)
    return elems


def _connect(gr: Any, elems: dict[str, Any], remember: bool) -> None:
    name, path, hub, template = (elems[part] for part in ("model_name", "model_path", "hub_name", "template"))
    tuner, checkpoint, lang = elems["finetuning_type"], elems["checkpoint_path"], elems["lang"]
    gr.on([name.input, hub.input], choose_model, [name, hub], [path, template], **QUICK)
    if remember:
        gr.on([name.input, hub.input, lang.input], remember_model, [lang, name, hub], None, **QUICK)
    # Another model has other checkpoints: what was chosen of the last one's does not stay.
    gr.on([name.change, tuner.change], lambda: [], None, checkpoint, **QUICK)
    checkpoint.focus(offer_checkpoints, [name, path, tuner], checkpoint, **QUICK)


def choose_model(name: str | None, hub: str | None) -> tuple[Any, Any]:
    """Path and template of a model of the catalogue; for any other one, what is there stays."""
    import gradio as gr

    model = load().get(name or "")
    if model is None:
        return gr.skip(), gr.skip()
    return model.path(hub or "huggingface"), model.template or "default"


def remember_model(lang: str, name: str | None, hub: str | None) -> None:
    """Keep what was chosen for the next visit."""
    model = load().get(name or "")
    path = model.path(hub or "huggingface") if model else None
    save_config(lang, hub, model.name if model else None, path)


def offer_checkpoints(name: str | None, path: str | None, tuner: str | None) -> Any:
    """The list of what earlier runs of this model left; what is chosen is left alone, for it may be newer than this."""
    import gradio as gr

    values = {"top.model_name": name, "top.model_path": path, "top.finetuning_type": tuner}
    return gr.update(choices=list_checkpoints(save_folder(values)))
