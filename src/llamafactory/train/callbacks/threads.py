# SPDX-License-Identifier: Apache-2.0
"""While a run goes on its threads follow the cores that are free."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback

from ...extras.threads import look_again


class ThreadsCallback(TrainerCallback):
    """Looks again, every few seconds, between two micro-batches."""

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        look_again()

    def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        look_again()

    def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        look_again()
