# SPDX-License-Identifier: Apache-2.0
"""GRPO and its relatives: several completions of a prompt are compared with each other; there is no critic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...hparams import TrainArgs
from ..losses.advantages import group_advantages, returns_to_go, token_rewards, whiten
from ..losses.policy import POLICY_LOSSES, PolicySettings, kl_estimate
from ..rl.completions import Batch, line_of, mask_of, rows_of
from ..rl.ranks import sum_over_ranks
from ..rl.trainer import RolloutTrainer


class GRPOTrainer(RolloutTrainer):
    """The losses of ``loss_type``."""

    def __init__(self, **everything: Any) -> None:
        args: TrainArgs = everything["run_args"]
        rlhf = args.rlhf
        self.loss_name = rlhf.loss_type
        # Where the paper takes the divergence off the rewards, the loss has none.
        self.kl_in_reward = POLICY_LOSSES[rlhf.loss_type].kl_in_reward and rlhf.beta > 0
        self.settings = PolicySettings(
            clip_low=rlhf.epsilon,
            clip_high=rlhf.epsilon if rlhf.epsilon_high is None else rlhf.epsilon_high,
            beta=0.0 if self.kl_in_reward else rlhf.beta,
            max_length=args.generating.max_new_tokens,
            delta=rlhf.delta,
        )
        super().__init__(**everything)

    def needs_reference(self, args: TrainArgs) -> bool:
        return args.rlhf.beta > 0

    def repeats(self) -> tuple[int, int, int]:
        return self.run_args.rlhf.num_generations, 1, self.run_args.rlhf.num_iterations

    @property
    def looks_back(self) -> bool:
        return super().looks_back or self.kl_in_reward

    def credit(self, batches: list[Batch], rewards: Tensor) -> tuple[Tensor, dict[str, Sequence[float]]]:
        rlhf = self.run_args.rlhf
        groups = rewards.view(-1, rlhf.num_generations)
        alike = torch.tensor([len(group[~group.isnan()].unique()) < 2 for group in groups])
        means: dict[str, Sequence[float]] = {
            "reward_std": [group[~group.isnan()].std(correction=1).item() for group in groups],
            "equal_groups": alike.float().tolist(),
        }
        for batch in batches:
            if rlhf.mask_truncated_completions:
                batch["kept"] *= torch.tensor(batch["finished"])
            if rlhf.dynamic_sampling:
                batch["kept"] *= (~alike[torch.tensor(batch["slots"]) // rlhf.num_generations]).float()
        if self.kl_in_reward:
            divergence = self._divergence(batches, len(rewards))
            means["kl"] = divergence.tolist()
            if self.loss_name == "reinforce_plus_plus":
                return self._credit_tokens(batches, rewards), means
            rewards = rewards - rlhf.beta * divergence
        advantages = group_advantages(self.loss_name, rewards, rlhf.num_generations, rlhf.scale_rewards)
        for batch in batches:
            batch["advantages"] = advantages[list(batch["slots"])].float()
        return advantages, means

    def _divergence(self, batches: list[Batch], slots: int) -> Tensor:
        """Return [slots] log pi - log ref, summed over each completion, of all ranks."""
        sums = torch.zeros(slots, dtype=torch.float64, device=self.args.device)
        for batch in batches:
            kl = rows_of(kl_estimate(batch["old"], batch["ref"], "k1"), batch["lengths"])
            sums[list(batch["slots"])] = kl.sum(-1).double()
        return sum_over_ranks(sums).cpu()

    def _credit_tokens(self, batches: list[Batch], rewards: Tensor) -> Tensor:
        """REINFORCE++: returns with the divergence taken off token by token, whitened over the rollout."""
        returns = []
        for batch in batches:
            lengths = batch["lengths"]
            kl = rows_of(kl_estimate(batch["old"], batch["ref"], "k1"), lengths)
            mask = mask_of(lengths, kl.device)
            scores = rewards[list(batch["slots"])].to(kl.device)
            returns.append(
                line_of(returns_to_go(token_rewards(scores, kl, mask, self.run_args.rlhf.beta), mask), lengths)
            )
        line = torch.cat(returns)
        white = whiten(line, torch.ones_like(line), reduce=sum_over_ranks)
        shown = torch.zeros(len(rewards), dtype=torch.float64, device=self.args.device)
        for batch, part in zip(batches, white.split([len(line) for line in returns]), strict=True):
            batch["advantages"] = part
            means = rows_of(part, batch["lengths"]).sum(-1) / torch.tensor(batch["lengths"], device=part.device)
            shown[list(batch["slots"])] = means.double()
        return sum_over_ranks(shown).cpu()
