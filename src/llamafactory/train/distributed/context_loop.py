# SPDX-License-Identifier: Apache-2.0
"""Transformers' loop where several processes share each row; where none do, as it is."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import transformers

from ...model.context_parallel import Context, context_of

if TYPE_CHECKING:
    from ...hparams import TrainArgs


class ContextLoop(transformers.Trainer):
    """What the loop does otherwise when there is a context.

    Each process of a context knows the scores of the whole row, counts its items and computes its loss; so sums and
    counts over all processes are so many times too large, and means are right.

    Attributes:
        run_args: The whole resolved configuration; set before this is initialized.
    """

    run_args: TrainArgs
    args: Any  # ours, see training_arguments.py

    @cached_property
    def context(self) -> Context | None:
        """The processes that share this one's rows."""
        size = self.args.context_size
        return None if size == 1 else context_of(size)

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        prepared: dict[str, Any] = super()._prepare_inputs(inputs)
        if self.context is None:
            return prepared
        others = {name: {**value, "context": self.context} for name, value in prepared.items() if name == "mismatched"}
        return {**prepared, **others, "context": self.context}

    def get_total_train_batch_size(self, args: Any) -> int:
        """Return the rows of an optimizer step."""
        return int(super().get_total_train_batch_size(args)) // self.args.sharers
