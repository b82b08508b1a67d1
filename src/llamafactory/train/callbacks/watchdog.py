# SPDX-License-Identifier: Apache-2.0
"""A run whose loss has gone up for good does not go on for hours."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback

from ...extras.errors import ConfigError


class LossWatchdog(TrainerCallback):
    """Ends the run at a loss that stays too large; all ranks see the same one.

    Args:
        threshold: Largest loss that is in order.
        patience: How many logs in a row may be above it.
    """

    def __init__(self, threshold: float, patience: int) -> None:
        self.threshold, self.patience = threshold, patience
        self._above = 0

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        """Count logs.

        Raises:
            ConfigError: There were too many.
        """
        if not logs or "loss" not in logs:
            return
        self._above = self._above + 1 if logs["loss"] > self.threshold else 0
        if self._above >= self.patience:
            raise ConfigError(
                f"loss_watchdog_threshold: the loss was above {self.threshold} in {self._above} logs in a row, "
                f"{logs['loss']:.4g} at step {state.global_step}; lower learning_rate"
            )
