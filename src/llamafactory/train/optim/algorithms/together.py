# SPDX-License-Identifier: Apache-2.0
"""Several optimizers as one, each for its own weights."""

from __future__ import annotations

from typing import Any

import torch

from .restorable import Restorable


class Together(Restorable):
    """One list of groups and one state, for schedules and checkpoints; the parts share both.

    Args:
        parts: Optimizers of different weights.
    """

    def __init__(self, parts: list[torch.optim.Optimizer]) -> None:
        self.parts: list[torch.optim.Optimizer] = []
        super().__init__([group for part in parts for group in part.param_groups], {})
        self.sizes = [len(part.param_groups) for part in parts]
        self.parts = parts
        self._share()

    def _share(self) -> None:
        """Let each part work on the groups and the state that are kept here."""
        start = 0
        for part, size in zip(self.parts, self.sizes, strict=True):
            part.param_groups, part.state = self.param_groups[start : start + size], self.state
            start += size

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Let each part take its step."""
        for part in self.parts:
            part.step()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave."""
        super().load_state_dict(state_dict)
        self._share()
