# SPDX-License-Identifier: Apache-2.0
"""Above the tabs: language, model, tuner, and how the model is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...extras.errors import ConfigError, writing
from ...extras.logging import get_logger
from ...model.catalogue.catalogue import load
from ..common import language, save_config
from ..fields.choices import list_checkpoints
from ..fields.configuration import save_folder
from ..texts.texts import LANGUAGES, parts
from ..workspace import CACHE, workspace
from .widgets import QUICK, Offered, make_fields, offer_when_opened

if TYPE_CHECKING:
    from gradio.blocks import Block

logger = get_logger(__name__)


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
        gr.Accordion(open=False, elem_id="top-more", **parts(chosen, "group.model")) as box,
        gr.Row(elem_classes=["fields"]),
    ):
        elems |= make_fields("top", chosen, "model")
    elems["group.model"] = box
    _connect(gr, elems, remember)
    return elems


def _connect(gr: Any, elems: dict[str, Any], remember: bool) -> None:
    name, path, hub, template = (elems[part] for part in ("model_name", "model_path", "hub_name", "template"))
    tuner, checkpoint, lang = elems["finetuning_type"], elems["checkpoint_path"], elems["lang"]
    named = elems["named"] = gr.State(name.value)  # whose path and template were filled in
    first = offer_checkpoints(None, None, None)
    offered = elems["offered"] = gr.State(first)  # what the list of checkpoints has
    checkpoint.choices = first[1]
    filled = [path, template, named]

    def fill(chosen: str | None, hub: str | None, lang: str) -> dict[Any, Any]:
        if remember:
            remember_model(lang, chosen, hub)
        return dict(zip((path, template), choose_model(chosen, hub), strict=True)) | {named: chosen}

    def choose(
        chosen: str | None, hub: str | None, lang: str, before: str | None, place: str | None, tuner: str | None
    ) -> dict[Any, Any]:
        """A list that is left without a choice says "input" too: that must not undo what was written meanwhile."""
        return gr.skip() if chosen == before else fill(chosen, hub, lang) | other_checkpoints(chosen, place, tuner)

    def other_checkpoints(chosen: str | None, place: str | None, tuner: str | None) -> dict[Any, Any]:
        """Another model, or tuner, has other checkpoints: what was chosen of the last one's does not stay."""
        now = offer_checkpoints(chosen, place, tuner)
        return {checkpoint: gr.update(choices=now[1], value=[]), offered: now}

    name.input(choose, [name, hub, lang, named, path, tuner], [*filled, checkpoint, offered], **QUICK)
    hub.input(fill, [name, hub, lang], filled, **QUICK)
    tuner.input(other_checkpoints, [name, path, tuner], [checkpoint, offered], **QUICK)
    # "named", not the list of all names: the browser copies every entry of a list that a handler takes.
    offer_when_opened(checkpoint, offer_checkpoints, [named, path, tuner], offered)
    if remember:
        lang.input(remember_model, [lang, name, hub], None, **QUICK)


def offer_checkpoints(name: str | None, path: str | None, tuner: str | None) -> Offered:
    """The folder of a model's runs, and what they left there."""
    folder = save_folder({"top.model_name": name, "top.model_path": path, "top.finetuning_type": tuner})
    return str(folder), list_checkpoints(folder)


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
    try:
        with writing(workspace() / CACHE):
            save_config(lang, hub, model.name if model else None, path)
    except ConfigError as error:  # all else goes on
        logger.warning_rank0("what was chosen is not kept for the next visit: %s", error)
