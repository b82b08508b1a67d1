# SPDX-License-Identifier: Apache-2.0
"""The loss of a student: how far it is from its teachers at each trained token."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from ...hparams import split_list
from ...plugins import resolve
from ..losses.cross_entropy import cross_entropy
from ..rl.rollouts.rollout import sampling_of
from ..token_scores import TokenScores
from ..trainer import Trainer
from .own_answers import OwnAnswers
from .teachers import Teachers, numbers_of, same_for_all


class DistillationTrainer(Trainer):
    """The divergence of ``losses/divergence.py`` between teacher r and student p, a mean over trained tokens.

    Both distributions are taken at ``gkd_temperature``: r, p = softmax(logits / temperature). ``nll`` is the
    cross-entropy of the answers at that temperature. Of the rows of a step ``gkd_lambda`` are answered by the student.
    """

    def __init__(self, *, model: nn.Module, run_args: Any, **everything: Any) -> None:
        # Before the student is changed, for a teacher of the same file must not get the student's forward.
        self.teachers = Teachers(model, everything["tokenizer"], run_args, everything["arguments"])
        super().__init__(model=model, run_args=run_args, **everything)
        self.sets = list(dict.fromkeys(split_list(run_args.data.dataset)))
        self.own_answers: OwnAnswers | None = None
        rlhf = run_args.rlhf
        if rlhf.gkd_lambda > 0:
            sampling = sampling_of(run_args)
            engine = resolve("rollouts", rlhf.rollout_engine)(self.model, self.template, sampling, run_args)
            share, seed = rlhf.gkd_lambda, self.args.seed
            self.own_answers = OwnAnswers(engine, share, sampling.limit, self.collator, seed)

    def get_batch_samples(
        self, epoch_iterator: Any, num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, Any]], Tensor]:
        if self.own_answers is not None:
            with self.tokens.waiting(), self.accelerator.autocast():
                batches = list(islice(epoch_iterator, num_batches))
                epoch_iterator = iter(self.own_answers.replace(batches, self.train_dataset, self.state.global_step))
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        for batch in batches:
            batch["teacher"] = self._teachers_of(batch)
        return batches, items

    def _teachers_of(self, batch: dict[str, Any]) -> Tensor:
        if "channels" in batch:
            return numbers_of(self.teachers, self.sets, batch["channels"])
        return same_for_all(batch, self.teachers.number_of(self.sets[0]))

    def _eval_batches(self, rows: Any) -> Iterator[dict[str, Any]]:
        name = next((name for name, some in (self.eval_dataset or {}).items() if some is rows), "")
        for batch in super()._eval_batches(rows):
            yield {**batch, "teacher": same_for_all(batch, self.teachers.number_of(name))}

    def token_scores(self, model: nn.Module, inputs: dict[str, Any], evaluating: bool = False) -> TokenScores:
        batch = {name: value for name, value in inputs.items() if name != "teacher"}
        anchor = self.teachers.anchor(batch, inputs["teacher"])
        options = self.score_options(batch, evaluating)
        temperature = self.run_args.rlhf.gkd_temperature
        scores: TokenScores = model(**batch, score=True, anchor=anchor, temperature=temperature, **options)
        return scores

    def loss_sums(self, scores: TokenScores, inputs: dict[str, Any]) -> dict[str, Tensor]:
        assert scores.divergence is not None
        sums = super().loss_sums(scores, inputs)
        loss = (scores.divergence * scores.weights).sum()
        return {**sums, "loss": loss, "nll": cross_entropy(scores.log_probs, scores.weights, 1.0).detach()}
