# SPDX-License-Identifier: Apache-2.0
"""What the buttons for saved configurations and example files do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...extras.errors import ConfigError
from ..fields.choices import list_checkpoints
from ..fields.configuration import load_example, load_preset, save_folder, save_preset, to_values
from ..fields.fields import COMMON, fields_on
from ..fields.set_keys import show_set
from ..texts.texts import text

if TYPE_CHECKING:
    from ..runner import Asked, Changes


def save(asked: Asked) -> Changes:
    """Save what the tab shows under the name that was typed."""
    import gradio as gr

    name = asked.state.get("preset") or ""
    path = save_preset(name, asked.values)
    gr.Info(f"{asked.text('alert.saved')} {path.name}")
    return {}  # the list is brought when it is opened: by the time of this answer another one may be chosen in it


def load(asked: Asked) -> Changes:
    """Show what was saved under the name that was typed."""
    name = asked.state.get("preset")
    if not name:
        raise ConfigError(asked.text("alert.no_preset"))
    return show(asked.tab, load_preset(name))


def open_example(tab: str, language: str, path: str | None) -> Changes:
    """Show one example file, and put its values into the fields."""
    import gradio as gr

    if not path:
        gr.Warning(text(language, "alert.no_example"))
        return {}
    try:
        content, config = load_example(path)
    except ConfigError as error:
        gr.Warning(str(error))
        return {}
    return show(tab, to_values(config, tab)) | {f"{tab}.yaml": gr.update(value=content, visible=True)}


def show(tab: str, values: dict[str, Any]) -> Changes:
    """Values in the fields of a tab and above it; those of keys that are not in front are kept beside them."""
    import gradio as gr

    changes: Changes = {name: value for name, value in values.items() if name in COMMON}
    known = {**fields_on("top"), **fields_on(tab)}
    more = {name: value for name, value in values.items() if name not in COMMON and name in known}
    if "top.model_name" in values:
        changes["top.named"] = values["top.model_name"]  # path and template are the saved ones
    if "top.model_path" in values:
        folder, chosen = save_folder(values), values.get("top.checkpoint_path") or []
        found = list_checkpoints(folder)
        changes |= {
            "top.checkpoint_path": gr.update(choices=found, value=chosen), "top.offered": (str(folder), found)
        }  # fmt: skip
    return changes | {f"{tab}.more": more, f"{tab}.more_set": show_set(more, tab)}
