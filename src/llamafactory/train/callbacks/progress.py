# SPDX-License-Identifier: Apache-2.0
"""What a person sees of a run: a bar in a terminal, short lines elsewhere, and soon how long it will take."""

from __future__ import annotations

import sys
import time
from datetime import timedelta
from typing import Any

from tqdm import tqdm
from transformers import TrainerCallback

from ...extras.logging import get_logger

logger = get_logger(__name__)

WIDTH = 79
_BAR = "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}{postfix} [{elapsed}<{remaining}]"
# Shown first, by these names; what else was logged follows while there is room.
_SHORT = {
    "loss": "loss", "eval_loss": "eval_loss", "learning_rate": "lr", "tokens_per_second": "tok/s", "epoch": "epoch",
    "grad_norm": "grad",
}  # fmt: skip
_OF_BAR = ("loss", "tokens_per_second")
_HIDDEN = ("trained_tokens_per_second", "total_flos", "step", "num_input_tokens_seen")
_STEPS_TO_MEASURE, _SECONDS_TO_MEASURE = 3, 5.0


class ProgressCallback(TrainerCallback):
    """Shows where training stands, on stderr of the first rank.

    Args:
        bars: Whether bars are wanted; they are drawn in terminals only.
    """

    def __init__(self, bars: bool) -> None:
        self._bars = bars and sys.stderr.isatty()
        self._bar: Any = None
        self._prediction: Any = None
        self._start = self._first_step = 0.0
        self._estimated = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._start, self._first_step, self._estimated = time.monotonic(), state.global_step, False
        if state.is_world_process_zero and self._bars:
            # Drawn at once: a bar that is closed before its delay leaves what was drawn without a line end.
            self._bar = tqdm(total=state.max_steps, initial=state.global_step, bar_format=_BAR, ncols=WIDTH, delay=1e-9)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._bar is not None:
            self._bar.total = state.max_steps  # a streaming run learns it on the way
            self._bar.update(state.global_step - self._bar.n)
        done, seconds = state.global_step - self._first_step, time.monotonic() - self._start
        if not self._estimated and done >= _STEPS_TO_MEASURE and seconds >= _SECONDS_TO_MEASURE:
            self._estimated = True
            left = (state.max_steps - state.global_step) * seconds / done
            logger.info_rank0("%d steps in %s; about %s to go", done, _clock(seconds), _clock(left))

    def on_prediction_step(
        self, args: Any, state: Any, control: Any, eval_dataloader: Any = None, **kwargs: Any
    ) -> None:
        if not state.is_world_process_zero or not self._bars or not hasattr(eval_dataloader, "__len__"):
            return
        if self._prediction is None:
            total = len(eval_dataloader)
            self._prediction = tqdm(total=total, desc="evaluating", unit=" batches", ncols=WIDTH, leave=False, delay=2)
        self._prediction.update()

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._prediction is not None:
            self._prediction.close()
        self._prediction = None

    def on_predict(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        self.on_evaluate(args, state, control)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if not state.is_world_process_zero or not logs or "train_runtime" in logs:
            return  # the summary of a finished run is reported by itself
        if self._bar is not None and "loss" in logs:
            self._bar.set_postfix_str(line_of({key: logs[key] for key in _OF_BAR if key in logs}, WIDTH))
            return
        left = self._left(state)
        place = f"step {state.global_step}/{state.max_steps}" if state.max_steps else f"step {state.global_step}"
        tqdm.write(f"{place}  {line_of(logs, WIDTH - len(place) - len(left) - 2)}{left}", file=sys.stderr)

    def _left(self, state: Any) -> str:
        done, seconds = state.global_step - self._first_step, time.monotonic() - self._start
        if not self._start or done <= 0 or state.global_step >= state.max_steps:
            return ""
        return f"  left {_clock((state.max_steps - state.global_step) * seconds / done)}"

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._bar is not None:
            self._bar.close()
        self._bar = None


def line_of(logs: dict[str, Any], width: int) -> str:
    """Return what was logged, the loss first, as far as it fits.

    >>> line_of({"epoch": 1.0, "loss": 2.34567, "learning_rate": 1e-4, "step": 3}, 40)
    'loss 2.346  lr 1.0e-04  epoch 1.00'
    """
    names = [name for name in _SHORT if name in logs]
    names += [name for name in logs if name not in _SHORT and name not in _HIDDEN]
    text = ""
    for name in names:
        more = f"{'  ' if text else ''}{_SHORT.get(name, name)} {_shown(name, logs[name])}"
        if len(text) + len(more) <= width:
            text += more
    return text


def _shown(name: str, value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    if name == "learning_rate":
        return f"{value:.1e}"
    return (
        f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.2f}" if name in ("epoch", "grad_norm") else f"{value:.4g}"
    )


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
