# SPDX-License-Identifier: Apache-2.0
"""The loss of a batch of judged completions."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ..losses.feedback import kl_estimate, kto
from ..metrics.means import count_sequences
from ..preference.reference import ReferenceTrainer
from ..token_scores import TokenScores


class KTOTrainer(ReferenceTrainer):
    """KTO plus ``pref_ftx`` times the SFT loss of the good completions: a mean over samples.

    The KL is estimated over the micro-batches that all ranks compute together.
    """

    def num_items(self, batch: dict[str, Any]) -> int:
        """Return the number of samples; a filler has none."""
        return count_sequences(batch) if batch["positions"].numel() else 0

    def loss_sums(self, scores: TokenScores, inputs: dict[str, Any]) -> dict[str, Tensor]:
        rlhf = self.run_args.rlhf
        policy, tokens = self.sums(scores, inputs)
        ratio, good, real = policy - self.reference_sums(inputs), inputs["desirable"], tokens > 0
        kl = self._kl(inputs["mismatched"], int(len(scores.targets) > 0))
        loss = kto(ratio, good, kl, rlhf.pref_beta, rlhf.kto_chosen_weight, rlhf.kto_rejected_weight)
        values: dict[str, Tensor] = {}
        if rlhf.pref_ftx:
            values["losses/sft"] = torch.where(good, -policy / tokens.clamp(min=1), 0.0)
            loss = loss + rlhf.pref_ftx * values["losses/sft"]
        rewards, log_probs = rlhf.pref_beta * ratio.detach(), policy.detach()
        right = (rewards > rlhf.pref_beta * kl) == good  # on the side of the loss's middle that the verdict asks for
        values |= {"loss": loss, "kl": kl.expand(len(loss)), "rewards/accuracies": right.to(loss.dtype)}
        for side, mine in (("chosen", good), ("rejected", ~good)):
            values[f"rewards/{side}"] = torch.where(mine, rewards, 0.0)
            values[f"logps/{side}"] = torch.where(mine, log_probs, 0.0)
            values[f"rewards/{side}:items"] = values[f"logps/{side}:items"] = mine.to(ratio.dtype)
        sums = {name: torch.where(real, value, 0.0).sum() for name, value in values.items()}
        return sums | self.entropy_sums(scores)

    def derived(self, means: dict[str, float]) -> dict[str, float]:
        if not {"rewards/chosen", "rewards/rejected"} <= means.keys():
            return means
        return {**means, "rewards/margins": means["rewards/chosen"] - means["rewards/rejected"]}

    def reference_columns(self, inputs: dict[str, Any]) -> Tensor:
        return torch.stack([self.reference_sums(inputs), self.reference_sums(inputs["mismatched"])], 1)

    @torch.no_grad()
    def _kl(self, batch: dict[str, Any], real: int) -> Tensor:
        """Estimate the KL from mismatched completions; all ranks call this together, ``real`` is 0 for a filler."""
        policy = self.policy_sums(batch)
        total = real * torch.stack([(policy - self.reference_sums(batch)).sum(), policy.new_tensor(len(policy))])
        if dist.is_initialized():
            dist.all_reduce(total)
        return kl_estimate(total[0], total[1].clamp(min=1))
