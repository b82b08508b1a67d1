# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C, SIGTERM, a closed terminal: the step ends, a checkpoint is saved, the run stops; a second signal kills it."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from transformers import TrainerCallback

from ...extras.launching import ending_signals
from ...extras.logging import get_logger

logger = get_logger(__name__)


class SignalCallback(TrainerCallback):
    """Listens during training.

    Attributes:
        received: The signal that ended training, or None.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._handle) for number in ending_signals()}

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        if args.world_size > 1:  # one rank may have got the signal a step before another
            number = torch.tensor(self.received or 0, device=args.device)
            dist.all_reduce(number, op=dist.ReduceOp.MAX)
            self.received = int(number) or None
        if self.received is not None:
            control.should_save = control.should_log = control.should_training_stop = True
        return control

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        self.restore()
        logger.warning_rank0(
            "%s: finishing this step and saving a checkpoint; again = stop at once", signal.Signals(number).name
        )

    def restore(self) -> None:
        """Let the signals do what they did before training."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
