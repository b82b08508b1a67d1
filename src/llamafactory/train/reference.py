# SPDX-License-Identifier: Apache-2.0
"""Trainer of the stages whose loss compares the policy with a reference."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..model import make_reference, without_adapter
from .token_scores import TokenScores, attach
from .trainer import Trainer


class ReferenceTrainer(Trainer):
    """Adds :meth:`reference_scores`; the reference is the model before training, or ``ref_model``.

    Args:
        needs_reference: Whether the loss looks at it at all.
        model: The policy, not trained yet.
        everything: As for :class:`Trainer`.
    """

    def __init__(self, *, model: nn.Module, needs_reference: bool = True, **everything: Any) -> None:
        self.needs_reference = needs_reference
        self.reference: nn.Module | None = None
        if needs_reference:  # before the policy is taught anything, for a copy would answer with the policy's weights
            self.reference = make_reference(model, everything["tokenizer"], everything["run_args"])
            if self.reference is not None:
                attach(self.reference)
        super().__init__(model=model, **everything)

    @torch.no_grad()
    def reference_scores(self, inputs: dict[str, Any]) -> TokenScores:
        """Return the reference's scores of a batch."""
        if self.reference is not None:
            return self.reference(**inputs, score=True)
        with without_adapter(self.accelerator.unwrap_model(self.model)) as base:
            return base(**inputs, score=True)

    @torch.no_grad()
    def policy_scores(self, inputs: dict[str, Any]) -> TokenScores:
        """Return the policy's own scores of a batch, without dropout."""
        policy = self.accelerator.unwrap_model(self.model)
        was_training = policy.training
        policy.eval()
        try:
            return policy(**inputs, score=True)
        finally:
            policy.train(was_training)
