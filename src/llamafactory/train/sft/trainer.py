# SPDX-License-Identifier: Apache-2.0
"""The loss of stage sft: cross-entropy, DFT, ASFT or EAFT. The class has its name in LLaMA-Factory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ...extras.errors import ConfigError
from ...model import make_reference, without_adapter
from ..losses.linear_log_probs import Anchor
from ..losses.supervised import TOP, asft, dft, eaft
from ..token_scores import TokenScores, attach
from ..trainer import Trainer


class CustomSeq2SeqTrainer(Trainer):
    """Adds the losses that ``use_dft_loss``, ``use_asft_loss`` and ``use_eaft_loss`` ask for.

    With one of them ``nll`` is reported too, the cross-entropy that the loss would be without, and with ASFT ``kl``,
    the divergence from the model before training (or from ``ref_model``).
    """

    def __init__(self, *, model: nn.Module, run_args: Any, **everything: Any) -> None:
        self.losses = run_args.finetuning
        self.reference: Any = None
        if self.losses.use_asft_loss:  # before the policy is changed, see ReferenceTrainer
            self.reference = make_reference(model, everything["tokenizer"], run_args)
            if self.reference is not None:
                _require_same_size(model, self.reference, str(run_args.rlhf.ref_model))
                attach(self.reference)
        super().__init__(model=model, run_args=run_args, **everything)

    def score_options(self, inputs: dict[str, Any], evaluating: bool) -> dict[str, Any]:
        options = super().score_options(inputs, evaluating)
        if self.losses.use_asft_loss:
            options["anchor"] = self._anchor(inputs)
        if self.losses.use_eaft_loss:
            options["top"] = TOP
        return options

    @torch.no_grad()
    def _anchor(self, inputs: dict[str, Any]) -> Anchor:
        if self.reference is not None:
            return self.reference(**inputs, score=True, as_anchor=True)
        with without_adapter(self.accelerator.unwrap_model(self.model)) as base:
            return base(**inputs, score=True, as_anchor=True)

    def loss_sums(self, scores: TokenScores, inputs: dict[str, Any]) -> dict[str, Tensor]:
        sums = super().loss_sums(scores, inputs)
        log_probs, weights = scores.log_probs, scores.weights
        if self.losses.use_dft_loss:
            loss = dft(log_probs, weights)
        elif self.losses.use_eaft_loss:
            assert scores.top_entropy is not None
            loss = eaft(log_probs, scores.top_entropy, weights, self.losses.eaft_alpha)
        elif self.losses.use_asft_loss:
            assert scores.divergence is not None
            loss = asft(log_probs, scores.divergence, weights, self.losses.asft_alpha)
            sums["kl"] = (scores.divergence * weights).sum()
        else:
            return sums
        return {**sums, "loss": loss, "nll": sums["loss"]}


def _require_same_size(policy: Any, reference: Any, name: str) -> None:
    ours, theirs = (len(model.get_output_embeddings().weight) for model in (policy, reference))
    if ours != theirs:
        raise ConfigError(
            f"ref_model: '{name}' has {theirs} rows in its head and the trained model {ours}; use_asft_loss compares "
            "them token by token"
        )
