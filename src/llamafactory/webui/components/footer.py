# SPDX-License-Identifier: Apache-2.0
"""Below the tabs: what memory the devices of this machine have left."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gradio.blocks import Block


def create_footer() -> dict[str, Block]:
    """Build the footer; gives its elements by name."""
    return {}
