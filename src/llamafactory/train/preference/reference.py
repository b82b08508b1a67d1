# SPDX-License-Identifier: Apache-2.0
"""Trainer of the stages whose loss compares the policy with a reference."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from ...model import eval_mode, make_reference, without_adapter
from ..distributed.whole import sharded
from ..losses.preference import completion_sums
from ..metrics.means import count_sequences, sequence_numbers
from ..token_scores import TokenScores, attach, trained_positions
from ..trainer import Trainer
from . import reference_cache

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import TrainingArguments

    from ...hparams import TrainArgs


def scoring_reference(
    policy: nn.Module, tokenizer: Any, args: TrainArgs, arguments: TrainingArguments
) -> nn.Module | None:
    """Return the frozen reference of a policy that is not trained yet, ready to score; None = it lies below."""
    reference = make_reference(policy, tokenizer, args)
    return None if reference is None else sharded(attach(reference), args, arguments)


class ReferenceTrainer(Trainer):
    """Adds :meth:`reference_sums`; the reference is the model before training, or ``ref_model``.

    Its sums are computed once, before training, and kept on disk, and the model is let go, if ``cache_ref_log_probs``
    says so or, unset, where that costs nothing: the run would score every row at least once anyway.

    Args:
        needs_reference: Whether the loss looks at it at all.
        model: The policy, not trained yet.
        everything: As for :class:`Trainer`.

    Attributes:
        ld_alpha: Weight of tokens beyond the shorter completion of a pair; None = 1.
    """

    ld_alpha: float | None = None
    _EXTRA: ClassVar = ("reference", "margin", "desirable", "mismatched")

    def __init__(self, *, model: nn.Module, needs_reference: bool = True, **everything: Any) -> None:
        self.needs_reference = needs_reference
        self.reference: nn.Module | None = None
        if (
            needs_reference
        ):  # before the policy is changed, for a copy of its new forward would use the policy's weights
            self.reference = scoring_reference(
                model, everything["tokenizer"], everything["run_args"], everything["arguments"]
            )
        super().__init__(model=model, **everything)
        self.reference_seconds = 0.0
        if needs_reference and self._shall_cache():
            start = time.perf_counter()
            self._cache()
            self.reference_seconds = time.perf_counter() - start

    def token_scores(self, model: nn.Module, inputs: dict[str, Any], evaluating: bool = False) -> TokenScores:
        return model(**self.sequences(inputs), score=True, entropy=True)

    @staticmethod
    def entropy_sums(scores: TokenScores) -> dict[str, Tensor]:
        """Return what is logged of the policy's entropy (nats): a mean over trained tokens."""
        assert scores.entropy is not None
        return {"entropy": scores.entropy.sum(), "entropy:items": (scores.targets >= 0).sum()}

    def sequences(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Return what of a batch the model itself takes."""
        return {name: value for name, value in inputs.items() if name not in self._EXTRA}

    def sums(self, scores: TokenScores, inputs: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Return log-probability [S] and length [S] of each completion of a batch."""
        numbers = sequence_numbers(scores.positions, inputs)
        return completion_sums(scores.log_probs, numbers, count_sequences(inputs), self.ld_alpha)

    @torch.no_grad()
    def reference_sums(self, inputs: dict[str, Any]) -> Tensor:
        """Return the reference's log-probability [S] of each completion of a batch."""
        if "reference" in inputs:
            return inputs["reference"]
        batch = self.sequences(inputs)
        if self.reference is not None:
            return self.sums(self.reference(**batch, score=True), batch)[0]
        with without_adapter(self.accelerator.unwrap_model(self.model)) as base:
            return self.sums(base(**batch, score=True), batch)[0]

    def reference_columns(self, inputs: dict[str, Any]) -> Tensor:
        """Return the reference's log-probabilities [B, 2] of the two sequences of each row of a batch."""
        return self.reference_sums(inputs).view(-1, 2)

    def run_metrics(self) -> dict[str, float]:
        return {**super().run_metrics(), "reference_runtime": round(self.reference_seconds, 4)}

    def _shall_cache(self) -> bool:
        wanted: bool | None = self.run_args.rlhf.cache_ref_log_probs
        if wanted is not None:
            return wanted
        if self.run_args.data.streaming:
            return False
        if self.train_dataset is None or self.args.max_steps <= 0:
            return self.train_dataset is None or self.args.num_train_epochs >= 1
        step = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.data_size
        return self.args.max_steps * step >= len(self.train_dataset)

    def _cache(self) -> None:
        """Put the reference's sums into the rows as the column ``reference``, and forget the reference."""
        weights = reference_cache.weights_hash(self.reference if self.reference is not None else self.model)
        key = f"{weights}-{self.ld_alpha}-{self.args.bf16}-{self.args.fp16}"

        def score(batch: dict[str, Any]) -> Tensor:
            batch["positions"] = trained_positions(batch["labels"])
            with self.accelerator.autocast():
                columns = self.reference_columns(self._prepare_inputs(batch))
            # The parts of all processes are added up, and one of those that share a row says it.
            return columns if self.context is None or self.context.rank == 0 else torch.zeros_like(columns)

        def known(rows: Dataset, batches: Iterable[dict[str, Any]]) -> Dataset:
            return reference_cache.with_reference(rows, batches, score, key, quiet=self.args.disable_tqdm)

        if self.train_dataset is not None:
            self.train_dataset = known(self.train_dataset, self.train_batches(drop_last=False))
        evaluates = self.args.do_eval or self.run_args.training.do_eval
        sets = (self.eval_dataset or {}) if evaluates else {}
        for name in sets:
            sets[name] = known(sets[name], self.get_eval_dataloader(sets[name]))
        self.reference = None

    @torch.no_grad()
    def policy_sums(self, inputs: dict[str, Any]) -> Tensor:
        """Return the policy's own log-probability [S] of each completion of a batch, without dropout."""
        batch = self.sequences(inputs)
        with eval_mode(self.accelerator.unwrap_model(self.model)) as policy:
            return self.sums(policy(**batch, score=True), batch)[0]
