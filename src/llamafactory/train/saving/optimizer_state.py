# SPDX-License-Identifier: Apache-2.0
"""Optimizer and schedule after a resume: the state is the checkpoint's, the settings are those of now."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch._weights_only_unpickler import UnpicklingError
from torch.optim.lr_scheduler import LambdaLR

from ...extras.errors import ConfigError, first_line

# What the configuration says of a group; other entries may be state (schedule-free optimizers keep some there).
_SETTINGS = ("betas", "eps", "weight_decay", "momentum", "dampening", "nesterov", "alpha", "lr_decay", "clip_threshold")
_RATES = ("lr", "initial_lr")


class Unread:
    """Stands where transformers would load a state that shall not be loaded."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Leave everything as it is."""


class Settings:
    """What a new optimizer and its schedule were made with, to be put back after their state was loaded.

    Args:
        optimizer: As made for this run.
        scheduler: Of this optimizer.
    """

    def __init__(self, optimizer: Any, scheduler: Any) -> None:
        self.optimizer, self.scheduler = optimizer, scheduler
        self.groups = [
            {key: group[key] for key in (*_SETTINGS, *_RATES) if key in group} for group in _groups(optimizer)
        ]
        self.base_rates = list(scheduler.base_lrs) if isinstance(scheduler, LambdaLR) else []

    def put_back(self, step: int, new_schedule: bool) -> None:
        """Let settings be those of this run, and the rates those of its schedule.

        Args:
            step: Optimizer steps done.
            new_schedule: The schedule's own state was not loaded.
        """
        by_step = isinstance(self.scheduler, LambdaLR)
        for group, made in zip(_groups(self.optimizer), self.groups, strict=True):
            # A schedule that follows a metric keeps its rate in the group.
            group.update({key: value for key, value in made.items() if key in _SETTINGS or by_step or new_schedule})
        if by_step:
            if new_schedule:
                self.scheduler.last_epoch, self.scheduler._step_count = step, step + 1
            self._set_rates()

    def _set_rates(self) -> None:
        """The next step is taken at the rate of its own place in the schedule, however long that is now."""
        scheduler = self.scheduler
        scheduler.base_lrs = self.base_rates
        rates = [
            base * rate(scheduler.last_epoch)
            for base, rate in zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
        ]
        for group, rate in zip(_groups(self.optimizer), rates, strict=True):
            group["lr"] = rate
        scheduler._last_lr = rates


def check_state(folder: Path) -> str | None:
    """Return which part of the state a checkpoint without a list of files lacks, None if it has all."""
    names = {path.name for path in folder.iterdir()}
    parts = {"optimizer": "optimizer.pt", "scheduler": "scheduler.pt", "rng_state": "rng_state.pth"}
    return next((file for part, file in parts.items() if not any(name.startswith(part) for name in names)), None)


@contextmanager
def readable(folder: Path) -> Iterator[None]:
    """Say in one line that a state cannot be read, or that it is of another optimizer.

    Raises:
        ConfigError: It is so.
    """
    try:
        yield
    except (OSError, EOFError, RuntimeError, ValueError, KeyError, UnpicklingError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(
            f"resume_from_checkpoint: {folder}: the state of training cannot be loaded: {first_line(error)}"
        ) from error


def _groups(optimizer: Any) -> list[dict[str, Any]]:
    groups: list[dict[str, Any]] = optimizer.param_groups
    return groups
