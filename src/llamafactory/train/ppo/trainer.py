# SPDX-License-Identifier: Apache-2.0
"""PPO with a critic: a value head on the policy's own trunk, GAE, and the divergence taken off the rewards."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...hparams import TrainArgs
from ..losses.advantages import AdaptiveKL, RunningMoments, gae, token_rewards, whiten
from ..losses.policy import PolicySettings, StepItems, kl_estimate, value_loss
from ..rl.completions import Batch, line_of, mask_of, rows_of
from ..rl.ranks import sum_over_ranks
from ..rl.trainer import RolloutTrainer
from ..token_scores import TokenScores, attach
from .value_head import add_value_head, load_value_head, save_value_head, weights_without_head

# Settings that LLaMA-Factory's users never had a key for: the usual ones of Ziegler et al. 2019 and its successors.
_GAMMA, _LAMBDA = 1.0, 0.95
_CLIP, _VALUE_CLIP, _VALUE_WEIGHT = 0.2, 0.2, 0.1
_INITIAL_KL_WEIGHT = 0.2


class PPOTrainer(RolloutTrainer):
    """Schulman et al. 2017, with rewards as in Ouyang et al. 2022, eq. 2, and an adaptive weight of the divergence."""

    loss_name = "ppo"
    settings = PolicySettings(clip_low=_CLIP, clip_high=_CLIP)

    def __init__(self, **everything: Any) -> None:
        args: TrainArgs = everything["run_args"]
        self.kl = AdaptiveKL(_INITIAL_KL_WEIGHT, args.rlhf.ppo_target)
        self.moments = RunningMoments()
        super().__init__(**everything)

    def prepare_model(self, model: nn.Module) -> nn.Module:
        return attach(add_value_head(model))

    def needs_reference(self, args: TrainArgs) -> bool:
        return True

    def repeats(self) -> tuple[int, int, int]:
        return 1, self.run_args.rlhf.ppo_buffer_size, self.run_args.rlhf.ppo_epochs

    @property
    def looks_back(self) -> bool:
        return True  # values and the divergence are needed before the first update

    def credit(self, batches: list[Batch], rewards: Tensor) -> tuple[Tensor, dict[str, Sequence[float]]]:
        known = rewards[~rewards.isnan()]
        means: dict[str, Sequence[float]] = {"reward_std": [known.std(correction=1).item()]}
        if self.run_args.rlhf.ppo_score_norm:
            self.moments.update(rewards)
            rewards = self.moments.normalize(rewards)
        means["kl_weight"] = [self.kl.coefficient]
        lines = []
        shown = torch.zeros(2, len(rewards), dtype=torch.float64, device=self.args.device)
        for batch in batches:
            lengths, slots = batch["lengths"], list(batch["slots"])
            kl = rows_of(kl_estimate(batch["old"], batch["ref"], "k1"), lengths)
            shown[0, slots] = kl.sum(-1).double()
            scores = rewards[slots].to(kl.device)
            per_token = token_rewards(scores, kl, mask_of(lengths, kl.device), self.kl.coefficient)
            lines.append(line_of(per_token, lengths))
        if self.run_args.rlhf.ppo_whiten_rewards:
            lines = _whiten(lines, shift_mean=False)
        advantages = []
        for batch, line in zip(batches, lines, strict=True):
            lengths = batch["lengths"]
            mask = mask_of(lengths, line.device)
            ahead, returns = gae(rows_of(line, lengths), rows_of(batch["values"], lengths), mask, _GAMMA, _LAMBDA)
            batch["returns"] = line_of(returns, lengths)
            advantages.append(line_of(ahead, lengths))
        for batch, line in zip(batches, _whiten(advantages), strict=True):
            batch["advantages"] = line
            count = torch.tensor(batch["lengths"], device=line.device)
            shown[1, list(batch["slots"])] = (rows_of(line, batch["lengths"]).sum(-1) / count).double()
        divergence, advantage = sum_over_ranks(shown).cpu()
        means["kl"] = divergence.tolist()
        self.kl.update(float(divergence.mean()), len(rewards))
        return advantage, means

    def loss_sums(self, scores: TokenScores, inputs: dict[str, Any]) -> dict[str, Tensor]:
        sums = super().loss_sums(scores, inputs)
        lengths, step = inputs["lengths"], StepItems(*inputs["step"])
        assert scores.values is not None
        values, old, returns = (rows_of(line, lengths) for line in (scores.values, inputs["values"], inputs["returns"]))
        mask = mask_of(lengths, values.device)
        critic = value_loss(values, old, returns, mask, _VALUE_CLIP).sum()
        sums["loss"] = sums["loss"] + _VALUE_WEIGHT * critic / step.tokens * step.completions
        return sums | {"value_loss": critic.detach(), "value_loss:items": mask.sum()}

    def state_of_stage(self) -> dict[str, Any]:
        return {"kl_weight": self.kl.coefficient, "moments": vars(self.moments)}

    def restore_stage(self, state: dict[str, Any]) -> None:
        if state:
            self.kl.coefficient = state["kl_weight"]
            vars(self.moments).update(state["moments"])

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """Write a plain model or adapter, and the critic's head beside it."""
        if self.args.should_save:
            model = self.accelerator.unwrap_model(self.model)
            super()._save(output_dir, weights_without_head(model, state_dict))
            save_value_head(model, Path(output_dir or str(self.args.output_dir)), state_dict)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if self.saves_parts:  # the head among them
            return
        load_value_head(self.accelerator.unwrap_model(self.model), Path(resume_from_checkpoint), self.run_args.model)


def _whiten(lines: list[Tensor], shift_mean: bool = True) -> list[Tensor]:
    """Whiten all tokens of a rollout, those of other ranks included."""
    line = torch.cat(lines)
    white = whiten(line, torch.ones_like(line), shift_mean, sum_over_ranks)
    return list(white.split([len(part) for part in lines]))
