# SPDX-License-Identifier: Apache-2.0
"""An optimizer that rounds at random must round alike in every process, or their weights drift apart unseen."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from transformers import TrainerCallback


class SameRoundingCallback(TrainerCallback):
    """Gives each optimizer step random numbers that follow from seed and step alone.

    What a process has drawn before depends on its rows (dropout and noise draw as many numbers as there are tokens).
    """

    def __init__(self) -> None:
        self._own = ExitStack()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Put the process's own random state aside."""
        devices = [args.device] if args.device.type == "cuda" else []
        self._own.enter_context(torch.random.fork_rng(devices))
        torch.manual_seed(args.seed + 1_000_003 * (state.global_step + 1))

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Take it up again."""
        self._own.close()
