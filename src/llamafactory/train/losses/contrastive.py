# SPDX-License-Identifier: Apache-2.0
"""Losses of vectors of texts, over all texts of an optimizer step at once."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

_NEVER = -1e30  # as a logit; infinity has no gradient


class Texts(NamedTuple):
    """All texts of a step.

    Attributes:
        vectors: [S, d] of any length.
        keys: [S] int64, equal for equal texts.
        owners: [S] int64, the row of each; a row is a query and its documents.
        grades: [S] of documents; NaN marks a query.
    """

    vectors: Tensor
    keys: Tensor
    owners: Tensor
    grades: Tensor

    @property
    def is_query(self) -> Tensor:
        """[S] bool."""
        return self.grades.isnan()

    def of_row(self, what: Tensor) -> Tensor:
        """Return, for each text, what stands for the query of its row, given ``what`` [S] of all texts."""
        rows = int(self.owners.max()) + 1
        return what.new_zeros(rows, *what.shape[1:]).index_copy(0, self.owners[self.is_query], what[self.is_query])[
            self.owners
        ]


def known_pairs(texts: Texts) -> Tensor:
    """Return [Q, D] bool: documents that some row calls relevant to a query with the same text.

    No document is a negative for a query to which it, or an equal one, is relevant.
    """
    queries, documents = texts.is_query, ~texts.is_query
    numbers = torch.unique(texts.keys, return_inverse=True)[1]
    relevant = texts.grades > 0
    table = torch.zeros(int(numbers.max()) + 1, int(numbers.max()) + 1, dtype=torch.bool, device=numbers.device)
    table[texts.of_row(numbers)[relevant], numbers[relevant]] = True
    return table[numbers[queries]][:, numbers[documents]]


def info_nce(texts: Texts, temperature: float) -> tuple[Tensor, Tensor]:
    """InfoNCE (van den Oord et al. 2018, eq. 4) of each positive p of a query q against all other documents n.

    ``-log exp(cos(q, p) / t) / (exp(cos(q, p) / t) + sum_n exp(cos(q, n) / t))``, n: documents of all rows of the step
    that are not relevant to q.

    Args:
        texts: Of the step.
        temperature: t.

    Returns:
        [P] losses of the positives in order, and [P] whether each is nearer than all others.
    """
    units, documents = F.normalize(texts.vectors, dim=-1), ~texts.is_query
    scores = units[texts.is_query] @ units[documents].T / temperature
    others = scores.masked_fill(known_pairs(texts), _NEVER)
    relevant = texts.grades > 0
    number = torch.cumsum(texts.is_query, 0) - 1  # of queries, at each query
    row, place = texts.of_row(number)[relevant], (torch.cumsum(documents, 0) - 1)[relevant]
    own = scores[row, place]
    return F.softplus(others.logsumexp(1)[row] - own), own > others.amax(1)[row]


def cosent(texts: Texts, temperature: float) -> Tensor:
    """CoSENT (Su 2022): pairs of texts with a higher score shall have the higher cosine.

    ``log(1 + sum_{g_i > g_j} exp((cos_j - cos_i) / t))`` over all pairs i, j of the step.

    Args:
        texts: Of the step; each document is a pair with the query of its row, its grade is the score.
        temperature: t.

    Returns:
        A number.
    """
    cosines, grades = pair_cosines(texts)
    cosines = cosines / temperature
    wrong = (cosines[None, :] - cosines[:, None]).masked_fill(grades[:, None] <= grades[None, :], _NEVER)
    return torch.cat([wrong.new_zeros(1), wrong.flatten()]).logsumexp(0)


def pair_cosines(texts: Texts) -> tuple[Tensor, Tensor]:
    """Return [D] cosine of each document with the query of its row, and [D] its grade."""
    units, documents = F.normalize(texts.vectors, dim=-1), ~texts.is_query
    return (texts.of_row(units) * units).sum(-1)[documents], texts.grades[documents]
