# SPDX-License-Identifier: Apache-2.0
"""The loss of a batch of pairs."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from ...plugins import resolve
from ..losses.preference import Pairs, Settings, bco_term, sft_term
from ..metrics.means import count_sequences
from ..preference.reference import ReferenceTrainer
from ..token_scores import TokenScores


class DPOTrainer(ReferenceTrainer):
    """``pref_loss`` plus ``pref_ftx`` times the SFT loss plus ``pref_bco_weight`` times BCO: a mean over pairs."""

    def __init__(self, *, model: nn.Module, run_args: Any, **everything: Any) -> None:
        rlhf = run_args.rlhf
        self.loss = resolve("losses", rlhf.pref_loss)
        self.settings = Settings(rlhf.pref_beta, rlhf.dpo_label_smoothing, rlhf.simpo_gamma)
        free = getattr(self.loss, "reference_free", False) and not rlhf.pref_bco_weight
        self.ld_alpha = rlhf.ld_alpha
        super().__init__(model=model, run_args=run_args, needs_reference=not free, **everything)
        if rlhf.pref_bco_weight:
            self.add_callback(RewardShift())

    def num_items(self, batch: dict[str, Any]) -> int:
        """Return the number of pairs; a filler has none."""
        return count_sequences(batch) // 2 if batch["positions"].numel() else 0

    def loss_sums(self, scores: TokenScores, inputs: dict[str, Any]) -> dict[str, Tensor]:
        pairs, real = self._pairs(scores, inputs)
        rlhf, settings = self.run_args.rlhf, self.settings
        loss = self.loss(pairs, settings)
        parts: dict[str, Tensor] = {}
        if rlhf.pref_ftx:
            parts["sft"] = sft_term(pairs)
            loss = loss + rlhf.pref_ftx * parts["sft"]
        if rlhf.pref_bco_weight:
            # Looked up each time: a resume puts a new callback in its place.
            shift = next(cb for cb in self.callback_handler.callbacks if isinstance(cb, RewardShift))
            if self.model.training:
                shift.update(pairs, settings, real)
            parts["bco"] = bco_term(pairs, settings, shift.mean)
            loss = loss + rlhf.pref_bco_weight * parts["bco"]
        chosen, rejected = self._rewards(pairs)
        values = {
            "loss": loss,
            "rewards/chosen": chosen,
            "rewards/rejected": rejected,
            "rewards/margins": chosen - rejected,
            "rewards/accuracies": (chosen > rejected).to(chosen.dtype),
            "logps/chosen": pairs.chosen,
            "logps/rejected": pairs.rejected,
            **{f"losses/{name}": part for name, part in parts.items()},
        }
        sums = {name: torch.where(real, value, 0.0).sum() for name, value in values.items()}
        return sums | self.entropy_sums(scores)

    def _pairs(self, scores: TokenScores, inputs: dict[str, Any]) -> tuple[Pairs, Tensor]:
        """Return the pairs of a batch, and which of them are real: a filler has no trained token."""
        sums, tokens = self.sums(scores, inputs)
        reference = self.reference_sums(inputs) if self.needs_reference else torch.zeros_like(sums)
        lengths = tokens.clamp(min=1)
        pairs = Pairs(sums[::2], sums[1::2], reference[::2], reference[1::2], lengths[::2], lengths[1::2])
        return pairs, tokens[::2] > 0

    def _rewards(self, pairs: Pairs) -> tuple[Tensor, Tensor]:
        """Return beta times the ratio to the reference; without one, beta times the mean token log-probability."""
        if self.needs_reference:
            chosen, rejected = pairs.chosen_ratio, pairs.rejected_ratio
        else:
            chosen, rejected = pairs.chosen / pairs.chosen_tokens, pairs.rejected / pairs.rejected_tokens
        return self.settings.beta * chosen.detach(), self.settings.beta * rejected.detach()


class RewardShift(TrainerCallback, ExportableState):
    """BCO's shift: the mean reward over all pairs seen in training, on all ranks; it is saved with checkpoints."""

    def __init__(self, total: float = 0.0, count: float = 0.0) -> None:
        self.total: Tensor | float = total
        self.count: Tensor | float = count

    @property
    def mean(self) -> Tensor | float:
        """0 before anything was seen."""
        return self.total / self.count if isinstance(self.count, Tensor) or self.count else 0.0

    def update(self, pairs: Pairs, settings: Settings, real: Tensor) -> None:
        """Take in a batch; all ranks call this together."""
        both = settings.beta * (pairs.chosen_ratio + pairs.rejected_ratio).detach().double()
        new = torch.stack([torch.where(real, both, 0.0).sum(), 2 * real.sum().double()])
        if dist.is_initialized():
            dist.all_reduce(new)
        self.total, self.count = self.total + new[0], self.count + new[1]

    def state(self) -> dict[str, Any]:
        """As transformers saves and restores callbacks."""
        return {"args": {"total": float(self.total), "count": float(self.count)}, "attributes": {}}
