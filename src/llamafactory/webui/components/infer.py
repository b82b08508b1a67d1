# SPDX-License-Identifier: Apache-2.0
"""The tab Chat: what is loaded, and the chat with it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from ...extras.errors import ConfigError
from ...hparams import split_list
from ..chatting.chatter import Chatter, View
from ..chatting.conversation import escape
from ..chatting.neighbours import warning
from ..fields.configuration import build, check
from ..texts.texts import parts, text
from .chatbot import create_chat_box, properties
from .more_keys import create_more_keys
from .widgets import IN_TURN, QUICK, button, make_fields

if TYPE_CHECKING:
    from gradio.blocks import Block

    from ..engine import Engine

LOOK_SECONDS, WATCH_SECONDS = 3.0, 1.0  # between two looks at the model; while something happens to it


def create_infer_tab(engine: Engine) -> dict[str, Block]:
    """Build the tab; gives its elements by name."""
    import gradio as gr

    language, manager = engine.language, engine.manager
    tab: Any = gr.context.Context.block
    with gr.Row(elem_classes=["fields"]):
        elems: dict[str, Any] = make_fields("infer", language, "engine")
        elems["keep_adapters"] = gr.Checkbox(
            False, interactive=True, elem_id="infer-keep_adapters", **parts(language, "infer.keep_adapters")
        )
    elems |= create_more_keys(engine, "infer", elems)
    with gr.Row(elem_classes=["buttons"]):
        elems["load_btn"] = button(language, "infer.load_btn", variant="primary")
        elems["unload_btn"] = button(language, "infer.unload_btn", variant="stop", interactive=False)
    elems["told"] = gr.Markdown("", elem_id="infer-told", sanitize_html=True)
    elems["info_box"] = gr.Markdown(status(engine.chatter.view, language), elem_id="infer-info_box", sanitize_html=True)
    manager.add_elems("infer", elems)
    asked = engine.runner.inputs("infer")  # without the controls of the chat, which are for each answer
    elems |= create_chat_box(engine, visible=False)
    timer = gr.Timer(LOOK_SECONDS, active=False)
    manager.add_elems("timer", {"infer": timer})  # stopped with the others when another tab is opened
    watch = _Watch(engine.chatter, elems, gr.State(None), timer)
    _connect(engine, elems, watch, asked, tab)
    return elems


def _connect(engine: Engine, elems: dict[str, Any], watch: _Watch, asked: set[Block], tab: Any) -> None:
    """Let the buttons do what they say, and every page show what became of it."""
    seen, lang, keep, told = (
        watch.seen,
        engine.manager.get_elem_by_id("top.lang"),
        elems["keep_adapters"],
        elems["told"],
    )

    def load(given: dict[str, Any], language: str, beside: bool) -> str:
        note = warning(language)
        engine.chatter.load(infer_config(given, beside))
        return note

    def unload() -> str:
        engine.chatter.unload()
        return ""

    def press(work: Callable[[], str], before: Any, language: str) -> dict[Any, Any]:
        try:
            if engine.demo_mode:
                raise ConfigError(text(language, "alert.demo"))
            note = work()
        except ConfigError as error:
            note = _error(str(error))
        return {**watch.look(before, language), told: note}

    def press_load(data: dict[Any, Any]) -> dict[Any, Any]:
        """Begin to load what the fields say; what is wrong with them is a line of this page alone."""
        before, beside = data.pop(seen), data.pop(keep)
        given = engine.runner.read("infer", data)
        return press(lambda: load(given.values, given.language, beside), before, given.language)

    def press_unload(before: Any, language: str) -> dict[Any, Any]:
        """Give the memory back; answers end as far as they came."""
        return press(unload, before, language)

    changed = [*watch.outputs, told]
    elems["load_btn"].click(press_load, {*asked, keep, seen}, changed, **IN_TURN)
    elems["unload_btn"].click(press_unload, [seen, lang], changed, **QUICK)
    watch.timer.tick(watch.look, [seen, lang], watch.outputs, **QUICK)
    # A page asks again and again only once its chat was opened.
    tab.select(watch.open, [seen, lang], watch.outputs, **QUICK)


class _Watch:
    """Brings a page to what the model is like now, whichever page changed it.

    Attributes:
        seen: Version and language that a page shows.
        timer: Asks again.
        outputs: What may change.
    """

    def __init__(self, chatter: Chatter, elems: Mapping[str, Any], seen: Any, timer: Any) -> None:
        self._chatter, self._elems, self.seen, self.timer = chatter, elems, seen, timer
        names = ["info_box", "load_btn", "unload_btn", "chat_box", *properties(None)]
        self.outputs = [*(elems[name] for name in names), seen, timer]

    def open(self, seen: tuple[int, str] | None, language: str) -> dict[Any, Any]:
        """The same as :meth:`look`, which goes on from now."""
        import gradio as gr

        return {self.timer: gr.Timer(LOOK_SECONDS, active=True), **self.look(seen, language)}

    def look(self, seen: tuple[int, str] | None, language: str) -> dict[Any, Any]:
        """What a page must change."""
        import gradio as gr

        view = self._chatter.view
        now = (view.version, language)
        busy = view.state in ("loading", "unloading")
        if not busy and seen == now:
            return {self.seen: now}
        changes: dict[str, Any] = {"info_box": status(view, language)}
        if seen is None or seen[0] != view.version:
            changes["load_btn"] = gr.update(interactive=view.state == "empty")
            changes["unload_btn"] = gr.update(interactive=view.state in ("loading", "loaded"))
            changes["chat_box"] = gr.update(visible=view.state == "loaded")
            loaded = self._chatter.loaded
            if loaded is not None:
                changes |= {name: gr.update(**values) for name, values in properties(loaded).items()}
        found = {self._elems[name]: change for name, change in changes.items()}
        timer = gr.Timer(WATCH_SECONDS if busy else LOOK_SECONDS, active=True)
        return {**found, self.timer: timer, self.seen: now}


def status(view: View, language: str) -> str:
    """What the page says of the model."""
    name, step = escape(view.name), f" · {escape(view.step)}" if view.step else ""
    line = text(language, f"infer.status_{view.state}").format(name=name, seconds=f"{view.seconds:.0f}") + step
    return f"{_error(view.error)}\n\n{line}" if view.error else line


def infer_config(values: Mapping[str, Any], keep_adapters: bool) -> dict[str, Any]:
    """Return the keys of the model that the fields describe.

    Args:
        values: Field id to value.
        keep_adapters: The adapters stay beside the model, each under a name, instead of being merged into it.

    Raises:
        ConfigError: A field cannot be read, or the keys cannot be used.
    """
    config = build("infer", values)
    if keep_adapters:
        config = beside_each_other(config)
    problems = check("chat", config)
    if problems:
        raise ConfigError(problems[0][1])
    return config


def beside_each_other(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration whose adapters are loaded beside one base, to be chosen for each answer.

    Raises:
        ConfigError: It has none.
    """
    found = dict(config)
    adapters = found.pop("adapter_name_or_path", None)
    paths = split_list(adapters) if isinstance(adapters, str) else list(adapters or ())
    if found.get("lora_modules"):
        return dict(config)
    if not paths:
        raise ConfigError(
            "side by side: one base is held in memory with adapters beside it, and no adapter is chosen (a checkpoint "
            "of full or freeze is a whole model: load one after the other)"
        )
    names = _names(paths)
    return {**found, "lora_modules": ",".join(f"{name}={path}" for name, path in zip(names, paths, strict=True))}


def _names(paths: list[str]) -> list[str]:
    """A name for each adapter: the last folders of its path, as many as tell them apart."""
    parts = [PurePath(path).parts for path in paths]
    for count in range(1, max(map(len, parts)) + 1):
        # PEFT keeps adapters under their names in modules, whose names have no dots.
        names = [re.sub(r"[^\w-]+", "-", "-".join(one[-count:])).strip("-") or "adapter" for one in parts]
        if len(set(names)) == len(names):
            return names
    raise ConfigError(f"checkpoint_path: {paths[0]} is chosen twice")


def _error(message: str) -> str:
    return f"**Error:** {escape(message)}"
