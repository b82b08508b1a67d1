# SPDX-License-Identifier: Apache-2.0
"""Below the tabs: what the page asks again while somebody looks."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gradio.blocks import Block

SECONDS = 2.0  # between two looks at what goes on


def create_footer() -> dict[str, Block]:
    """Build the footer; gives its elements by name."""
    import gradio as gr

    return {"timer": gr.Timer(SECONDS), "tab": gr.State("train")}
