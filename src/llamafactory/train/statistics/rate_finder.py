# SPDX-License-Identifier: Apache-2.0
"""A learning rate found by trying: the range test of Smith (2015, arXiv:1506.01186), with growing steps."""

from __future__ import annotations

import math
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from ...extras.errors import ConfigError
from ..tuner import run_exp

_MEMORY = 0.9  # of the smoothed loss
_DIVERGED = 4.0  # times the smallest loss so far above it: the test ends, no rate beyond can be of use
_MARGIN = 10.0  # the rate at the smallest loss is at the edge already


@dataclass
class RateFinder(TrainerCallback):
    """Lets the rate grow from step to step by one factor, and notes the loss at each.

    Attributes:
        first: Rate of the first step.
        last: Of the last one.
        steps: How many.
        rates: Of the steps that were taken.
        losses: Their smoothed losses, the bias of the start taken out.
    """

    first: float
    last: float
    steps: int
    rates: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    _mean: float = 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, optimizer: Any = None, **_: Any) -> None:
        rate = self.first * (self.last / self.first) ** (state.global_step / max(1, self.steps - 1))
        highest = max(group.get("initial_lr", group["lr"]) for group in optimizer.param_groups)
        for group in optimizer.param_groups:  # groups with rates of their own keep their ratio
            group["lr"] = rate * group.get("initial_lr", group["lr"]) / highest
        self.rates.append(rate)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        loss = (logs or {}).get("loss")
        if loss is None or len(self.losses) >= len(self.rates):
            return
        self._mean = _MEMORY * self._mean + (1 - _MEMORY) * float(loss)
        self.losses.append(self._mean / (1 - _MEMORY ** (len(self.losses) + 1)))
        if not math.isfinite(self.losses[-1]) or self.losses[-1] > _DIVERGED * min(self.losses):
            control.should_training_stop = True

    def suggestion(self) -> float:
        """A tenth of the rate at which the smoothed loss was smallest.

        Raises:
            ConfigError: The loss never fell, so that nothing can be said.
        """
        finite = [loss for loss in self.losses if math.isfinite(loss)]
        if not finite or min(finite) >= finite[0]:
            raise ConfigError(
                "learning rate: the loss did not fall at any rate; give more steps or a smaller first rate"
            )
        return self.rates[self.losses.index(min(finite))] / _MARGIN


def find_rate(keys: dict[str, Any], first: float = 1e-7, last: float = 1.0, steps: int = 100) -> RateFinder:
    """Train with rates that grow from ``first`` to ``last``; nothing of the run is kept.

    Args:
        keys: Of the run that the rate is for.
        first: Rate of the first step.
        last: Of the last.
        steps: How many at most; the test ends when the loss has gone up for good.

    Raises:
        ConfigError: A key cannot be used, or the numbers make no range.
    """
    if not 0 < first < last or steps < 10:
        raise ConfigError(
            f"learning rate: expected 0 < first < last and 10 steps or more, got {first}, {last}, {steps}"
        )
    finder = RateFinder(first, last, steps)
    with tempfile.TemporaryDirectory(prefix="rates-") as folder:
        changed = {
            "output_dir": str(Path(folder) / "run"), "max_steps": steps, "logging_steps": 1, "save_strategy": "no",
            "eval_strategy": "no", "do_eval": False, "do_predict": False, "report_to": "none", "plot_loss": False,
            "lr_scheduler_type": "constant", "warmup_steps": 0, "learning_rate": last, "push_to_hub": False,
            "on_nonfinite": "skip", "overwrite_output_dir": True, "resume_from_checkpoint": None,
        }  # fmt: skip
        run_exp({**keys, **changed}, callbacks=[finder])
    return finder
