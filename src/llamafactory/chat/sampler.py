# SPDX-License-Identifier: Apache-2.0
"""The next token of many answers at once: each by its own settings and its own random numbers."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .json_constraint import JsonConstraint
    from .sampling import Sampling

_NUCLEUS = 1024  # of so many tokens the likeliest few nearly always hold top_p; else all are sorted
_BELOW_ONE = 1 - 2**-24  # the largest float32 below 1: a draw never falls behind the last token


@dataclass(eq=False)
class Chooser:
    """How one answer chooses.

    Attributes:
        sampling: Its settings.
        random: Its random numbers: what the neighbours draw does not matter.
        seen: Tokens of prompt and answer, for the repetition penalty, ``[V]``.
        constraint: What may come next, for answers that obey a JSON schema.
    """

    sampling: Sampling
    random: random.Random
    prompt: Sequence[int]
    constraint: JsonConstraint | None = None
    seen: Tensor | None = field(default=None, init=False)

    def penalize(self, scores: Tensor) -> None:
        """Divide (or multiply, below 0) the scores ``[V]`` of tokens that were there before."""
        if self.seen is None:
            self.seen = torch.zeros_like(scores, dtype=torch.bool)
            self.seen[list(self.prompt)] = True
        penalty = self.sampling.repetition_penalty
        scores.copy_(torch.where(self.seen, torch.where(scores < 0, scores * penalty, scores / penalty), scores))

    def take(self, token_id: int) -> None:
        """Remember the token that was chosen."""
        if self.seen is not None:
            self.seen[token_id] = True
        if self.constraint is not None:
            self.constraint.take(token_id)


@dataclass(frozen=True)
class Told:
    """Log-probabilities of one step: of the chosen token and of the likeliest, under the model alone."""

    chosen: float
    top: list[tuple[int, float]]


@dataclass(frozen=True)
class Choice:
    """One chosen token."""

    id: int
    told: Told | None


def choose(logits: Tensor, rows: Sequence[Chooser]) -> list[Choice]:
    """Choose one token for each row.

    Args:
        logits: ``[rows, V]``; may be written to.
        rows: Who chooses.
    """
    scores = logits.float()
    asked = [place for place, row in enumerate(rows) if row.sampling.log_probs is not None]
    untouched = scores[asked].log_softmax(-1) if asked else None
    for place, row in enumerate(rows):
        if row.sampling.repetition_penalty != 1.0:
            row.penalize(scores[place])
        if row.constraint is not None:
            scores[place].masked_fill_(~row.constraint.allowed(scores.shape[1]).to(scores.device), float("-inf"))
    chosen = scores.argmax(-1).tolist()
    for key, places in _alike(rows).items():
        picked = _draw(scores[places], [rows[place] for place in places], *key)
        for place, token_id in zip(places, picked, strict=True):
            chosen[place] = token_id
    told = _tell(untouched, [(chosen[place], rows[place].sampling.log_probs or 0) for place in asked])
    by_place = dict(zip(asked, told, strict=True))
    for row, token_id in zip(rows, chosen, strict=True):
        row.take(token_id)
    return [Choice(token_id, by_place.get(place)) for place, token_id in enumerate(chosen)]


def _alike(rows: Sequence[Chooser]) -> dict[tuple[int, bool], list[int]]:
    """Group the rows that draw: by ``top_k``, and whether ``top_p`` is below 1."""
    groups: dict[tuple[int, bool], list[int]] = defaultdict(list)
    for place, row in enumerate(rows):
        if not row.sampling.greedy:
            groups[row.sampling.top_k, row.sampling.top_p < 1].append(place)
    return groups


def _draw(scores: Tensor, rows: Sequence[Chooser], top_k: int, nucleus: bool) -> list[int]:
    """Draw from the ``top_k`` likeliest (0: all), of these from the fewest that hold ``top_p``."""
    number = {"device": scores.device, "dtype": torch.float32}
    scores = scores / torch.tensor([[row.sampling.temperature] for row in rows], **number)
    top_p = torch.tensor([[row.sampling.top_p] for row in rows], **number)
    uniform = torch.tensor([[min(row.random.random(), _BELOW_ONE)] for row in rows], **number)
    size = scores.shape[1]
    order: Tensor | None = None
    if top_k and top_k < size:
        scores, order = scores.topk(top_k)
        weights = scores.softmax(-1)
    elif nucleus:
        weights = scores.softmax(-1)
        likely, order = weights.topk(min(_NUCLEUS, size))
        if bool((likely.sum(-1, keepdim=True) < top_p).any()):
            likely, order = weights.sort(descending=True, stable=True)
        weights = likely
    else:
        weights = scores.softmax(-1)
    if nucleus:
        if order is None:
            weights, order = weights.sort(descending=True, stable=True)
        weights = weights * (weights.cumsum(-1) - weights < top_p)
    cumulated = weights.cumsum(-1)
    place = torch.searchsorted(cumulated, uniform * cumulated[:, -1:], right=True).clamp(max=weights.shape[1] - 1)
    return (place if order is None else order.gather(1, place))[:, 0].tolist()


def _tell(log_probs: Tensor | None, asked: Sequence[tuple[int, int]]) -> list[Told]:
    """Read chosen and likeliest tokens off ``[rows asked, V]``; ``asked``: chosen id, how many likeliest."""
    if log_probs is None:
        return []
    chosen = log_probs.gather(1, torch.tensor([[token] for token, _ in asked], device=log_probs.device))[:, 0].tolist()
    most = min(max(count for _, count in asked), log_probs.shape[1])
    values, ids = (tensor.tolist() for tensor in log_probs.topk(most))
    return [
        Told(chosen[row], list(zip(ids[row][:count], values[row][:count], strict=True)))
        for row, (_, count) in enumerate(asked)
    ]
