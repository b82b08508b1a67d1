# SPDX-License-Identifier: Apache-2.0
"""How well documents are ordered. Ties count against the model, and every query is in the mean."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

NAMES = ("ndcg_at_10", "mrr_at_10", "recall_at_10")
_CUT = 10


def ranking(scores: Tensor, gains: Tensor, cut: int = _CUT) -> tuple[float, float, float]:
    """Return NDCG, reciprocal rank and recall at ``cut`` of one query; 0 if no document is relevant.

    NDCG: sum of ``gain / log2(1 + rank)`` over the first documents, divided by the largest that is possible.

    Args:
        scores: [D] of the model. Of equal ones the less relevant comes first; NaN comes last.
        gains: [D], above 0 = relevant.
        cut: How many documents are looked at.
    """
    relevant = int((gains > 0).sum())
    if not relevant:
        return 0.0, 0.0, 0.0
    order = torch.argsort(gains, stable=True)
    found = scores.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
    order = order[torch.argsort(found[order], descending=True, stable=True)]
    top, best = gains[order][:cut].double(), gains.sort(descending=True).values[:cut].double()
    weights = 1 / torch.log2(torch.arange(2, len(top) + 2, dtype=torch.float64, device=top.device))
    hits = (top > 0).nonzero()
    first = 1 / (int(hits[0]) + 1) if len(hits) else 0.0
    return float((top * weights).sum() / (best.clamp(min=0) * weights).sum()), first, len(hits) / relevant


def mean_ranking(queries: Iterable[tuple[Tensor, Tensor]]) -> dict[str, float]:
    """Return the means of :func:`ranking` over queries, given the scores and gains of each."""
    found = [ranking(scores, gains) for scores, gains in queries]
    return {name: sum(column) / len(found) for name, column in zip(NAMES, zip(*found, strict=True), strict=True)}


def correlations(found: Tensor, wanted: Tensor) -> dict[str, float]:
    """Return Pearson's and Spearman's correlation of two lists [N]; 0 where one of them does not vary."""
    return {"pearson": _pearson(found, wanted), "spearman": _pearson(_ranks(found), _ranks(wanted))}


def _pearson(one: Tensor, other: Tensor) -> float:
    x, y = one.double() - one.double().mean(), other.double() - other.double().mean()
    spread = float((x @ x) * (y @ y))
    return float(x @ y) / spread**0.5 if spread > 0 else 0.0


def _ranks(values: Tensor) -> Tensor:
    """Return the rank of each value; equal ones share the mean of theirs."""
    _, number, count = torch.unique(values, return_inverse=True, return_counts=True)
    return (count.cumsum(0).double() - (count.double() - 1) / 2)[number]
