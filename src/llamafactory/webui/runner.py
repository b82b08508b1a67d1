# SPDX-License-Identifier: Apache-2.0
"""What the buttons of a run do: show it before it is started, start it as a job, watch it, end it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gradio.blocks import Block

    from .manager import Manager


class Runner:
    """The runs of a page, which live outside of it.

    Args:
        manager: The page's elements.
        demo_mode: Nothing is run.
    """

    def __init__(self, manager: Manager, demo_mode: bool = False) -> None:
        self.manager, self.demo_mode = manager, demo_mode

    def resume(self, lang: str) -> dict[Block, Any]:
        """What a page that opens shows of the run that goes on."""
        return {}

    def run_train(self, data: Mapping[Block, Any]) -> dict[Block, Any]:
        """Start training."""
        return self._launch(data, do_train=True)

    def run_eval(self, data: Mapping[Block, Any]) -> dict[Block, Any]:
        """Start an evaluation."""
        return self._launch(data, do_train=False)

    def _launch(self, data: Mapping[Block, Any], do_train: bool) -> dict[Block, Any]:
        raise NotImplementedError
