# SPDX-License-Identifier: Apache-2.0
"""Below the tabs: the folder that the page works in, and what memory this machine has left."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..drawing.device_memory import device_memory
from ..drawing.reports import text as html_text
from ..workspace import workspace
from .watch import html

if TYPE_CHECKING:
    from gradio.blocks import Block


def create_footer() -> dict[str, Block]:
    """Build the footer; gives its elements by name."""
    place = html(f"<p><small>{html_text(workspace().name)}</small></p>", elem_id="footer-place")
    return {"memory": html(device_memory(), elem_id="footer-memory"), "place": place}
