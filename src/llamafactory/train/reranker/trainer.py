# SPDX-License-Identifier: Apache-2.0
"""The loss of a reranker, and how well it orders documents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...data.pairs import separate_pairs
from ...export.cross_encoder import write_cross_encoder
from ..losses.ranking import listwise, pointwise
from ..metrics.ranking import NAMES, ranking
from ..sequence_scores import attach_scores
from ..trainer import Trainer


class RerankerTrainer(Trainer):
    """A mean over documents (pointwise) or over queries that have a relevant one (listwise), of the whole step."""

    def __init__(self, *, tokenizer: Any, run_args: Any, **everything: Any) -> None:
        separate_pairs(tokenizer)  # it is saved, and the rows may have been made by another process
        self.lists = run_args.finetuning.reranker_loss == "listwise"
        super().__init__(tokenizer=tokenizer, run_args=run_args, **everything)

    def prepare_model(self, model: nn.Module) -> nn.Module:
        return attach_scores(model)

    def token_scores(self, model: nn.Module, inputs: dict[str, Any], evaluating: bool = False) -> Tensor:
        """Return scores [S]."""
        scores: Tensor = model(**inputs, scores=True)[:, 0]
        return scores

    def num_items(self, batch: dict[str, Any]) -> int:
        """Return the number of documents, or of queries with a relevant one; a filler has none."""
        real = batch["owners"] >= 0
        return int(batch["owners"][real & (batch["grades"] > 0)].unique().numel() if self.lists else real.sum())

    def loss_sums(self, scores: Tensor, inputs: dict[str, Any]) -> dict[str, Tensor]:
        real, grades = inputs["owners"] >= 0, inputs["grades"]
        if not real.any():
            return {"loss": scores.sum() * 0} | (_figures([], scores) if not torch.is_grad_enabled() else {})
        scores, grades = scores[real], grades[real]
        owners = torch.unique(inputs["owners"][real], return_inverse=True)[1]
        losses = listwise(scores, grades, owners) if self.lists else pointwise(scores, grades)
        if torch.is_grad_enabled():
            return {"loss": losses.sum()}
        queries = [(scores[owners == query], grades[owners == query]) for query in range(int(owners.max()) + 1)]
        return {"loss": losses.sum(), **_figures(queries, scores)}

    def save_texts(self, folder: Path) -> None:
        """Write beside whole weights what makes sentence-transformers give the same scores."""
        super().save_texts(folder)
        if not hasattr(self.accelerator.unwrap_model(self.model), "peft_config"):
            write_cross_encoder(folder)


def _figures(queries: list[tuple[Tensor, Tensor]], like: Tensor) -> dict[str, Tensor]:
    """Sums over queries, and their number, for every query is in the mean."""
    found = [ranking(scores, grades) for scores, grades in queries]
    sums = {}
    for place, name in enumerate(NAMES):
        sums[name] = like.new_tensor(sum(one[place] for one in found))
        sums[f"{name}:items"] = like.new_tensor(float(len(found)))
    return sums
