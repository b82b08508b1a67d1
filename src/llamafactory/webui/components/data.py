# SPDX-License-Identifier: Apache-2.0
"""The tab ``data``."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gradio.blocks import Block

    from ..engine import Engine


def create_data_tab(engine: Engine) -> dict[str, Block]:
    """Build the tab; gives its elements by name."""
    return {}
