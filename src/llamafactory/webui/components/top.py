# SPDX-License-Identifier: Apache-2.0
"""Above the tabs: language, model, and how it is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..common import language
from .widgets import make_fields

if TYPE_CHECKING:
    from gradio.blocks import Block


def create_top() -> dict[str, Block]:
    """Build what all tabs share; gives its elements by name."""
    import gradio as gr

    from ..texts.texts import LANGUAGES, text

    chosen = language()
    with gr.Row():
        lang = gr.Dropdown(list(LANGUAGES), value=chosen, label=text(chosen, "top.lang"), scale=1, interactive=True)
    return {"lang": lang, **make_fields("top", chosen)}
