# SPDX-License-Identifier: Apache-2.0
"""The loss of a reward model."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ..losses.feedback import bradley_terry
from ..metrics.means import count_sequences
from ..sequence_scores import attach_scores
from ..trainer import Trainer


class RewardTrainer(Trainer):
    """Bradley-Terry on the scores of both completions, with the rows' margins: a mean over pairs."""

    def prepare_model(self, model: nn.Module) -> nn.Module:
        return attach_scores(model)

    def token_scores(self, model: nn.Module, inputs: dict[str, Any], evaluating: bool = False) -> Tensor:
        """Return scores [2 P]."""
        return model(**inputs, scores=True)[:, 0]

    def num_items(self, batch: dict[str, Any]) -> int:
        """Return the number of pairs; a filler has none."""
        return count_sequences(batch) // 2 if batch["positions"].numel() else 0

    def loss_sums(self, scores: Tensor, inputs: dict[str, Any]) -> dict[str, Tensor]:
        chosen, rejected = scores[::2], scores[1::2]
        values = {
            "loss": bradley_terry(chosen, rejected, inputs["margin"], self.run_args.rlhf.center_rewards_coefficient),
            "rewards/chosen": chosen.detach(),
            "rewards/rejected": rejected.detach(),
            "rewards/margins": (chosen - rejected).detach(),
            "rewards/accuracies": (chosen > rejected).float(),
            "rewards/mean": (chosen + rejected).detach() / 2,
        }
        real = float(inputs["positions"].numel() > 0)  # of a filler nothing counts
        return {name: real * value.sum() for name, value in values.items()}
