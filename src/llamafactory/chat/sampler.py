# SPDX-License-Identifier: Apache-2.0
"""The next token of many completions at once: each by its own settings and its own random numbers."""

from __future__ import annotations

import math
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
NO_TOKEN = -1
_BELOW_ONE = 1 - 2**-24  # the largest float32 below 1: a draw never falls behind the last token


@dataclass(eq=False)
class Sampler:
    """Samples the tokens of one completion.

    Attributes:
        sampling: Its settings.
        random: Its random numbers: what the neighbours draw does not matter.
        bias: Ids of the tokens of ``logit_bias`` and what is added to each.
        seen: Tokens of prompt and completion, for the repetition penalty, ``[V]``.
        constraint: What may come next, for completions that obey a JSON schema.
    """

    sampling: Sampling
    random: random.Random
    prompt: Sequence[int]
    constraint: JsonConstraint | None = None
    bias: tuple[Tensor, Tensor] | None = field(default=None, init=False)
    seen: Tensor | None = field(default=None, init=False)

    @property
    def changes_scores(self) -> bool:
        """Whether :meth:`process` has anything to do."""
        sampling = self.sampling
        return self.constraint is not None or bool(sampling.logit_bias) or sampling.repetition_penalty != 1.0

    def add_bias(self, scores: Tensor, bias: dict[int, float]) -> None:
        """Add to the scores ``[V]`` of some tokens."""
        if self.bias is None:
            ids = torch.tensor([*bias], device=scores.device)
            self.bias = ids, torch.tensor([*bias.values()], device=scores.device, dtype=scores.dtype)
        scores[self.bias[0]] += self.bias[1]

    def penalize_repetition(self, scores: Tensor) -> None:
        """Divide (or multiply, below 0) the scores ``[V]`` of tokens that were there before."""
        if self.seen is None:
            self.seen = torch.zeros_like(scores, dtype=torch.bool)
            self.seen[list(self.prompt)] = True
        penalty = self.sampling.repetition_penalty
        scores.copy_(torch.where(self.seen, torch.where(scores < 0, scores * penalty, scores / penalty), scores))

    def process(self, scores: Tensor) -> None:
        """Change the scores ``[V]`` by what the request asks for beyond temperature, ``top_k`` and ``top_p``."""
        if self.sampling.logit_bias:  # first, as in vLLM and transformers
            self.add_bias(scores, self.sampling.logit_bias)
        if self.sampling.repetition_penalty != 1.0:
            self.penalize_repetition(scores)
        if self.constraint is not None:
            scores.masked_fill_(~self.constraint.allowed(len(scores)).to(scores.device), float("-inf"))

    def take(self, token_id: int) -> None:
        """Remember the token that was sampled."""
        if self.seen is not None:
            self.seen[token_id] = True
        if self.constraint is not None:
            self.constraint.take(token_id)


@dataclass(frozen=True)
class StepLogProbs:
    """Log-probabilities of one step: of the sampled token and of the likeliest, under the model alone."""

    sampled: float
    top: list[tuple[int, float]]


@dataclass(frozen=True)
class SampledToken:
    """One token, with log-probabilities where they were requested."""

    id: int  # NO_TOKEN: the model's logits are no numbers
    log_probs: StepLogProbs | None


def sample(logits: Tensor, rows: Sequence[Sampler]) -> list[SampledToken]:
    """Sample one token for each row.

    Args:
        logits: ``[rows, V]``; may be written to.
        rows: The sampler of each row.
    """
    scores = logits.float()
    reporting = [place for place, row in enumerate(rows) if row.sampling.log_probs is not None]
    untouched = scores[reporting].log_softmax(-1) if reporting else None
    for place, row in enumerate(rows):
        if row.changes_scores:
            row.process(scores[place])
    sampled = _sample(scores, rows)
    counts = [(sampled[place], rows[place].sampling.log_probs or 0) for place in reporting]
    log_probs = dict(zip(reporting, _gather_log_probs(untouched, counts), strict=True))
    for row, token_id in zip(rows, sampled, strict=True):
        if token_id != NO_TOKEN:
            row.take(token_id)
    return [SampledToken(token_id, log_probs.get(place)) for place, token_id in enumerate(sampled)]


def _sample(scores: Tensor, rows: Sequence[Sampler]) -> list[int]:
    """Return the likeliest token of each greedy row, one drawn by its settings for each other, or ``NO_TOKEN``."""
    most, likeliest = scores.max(-1)
    sampled = likeliest.tolist()
    for key, places in _group_by_settings(rows).items():
        drawn = _draw(scores[places], [rows[place] for place in places], *key)
        for place, token_id in zip(places, drawn, strict=True):
            sampled[place] = token_id
    # The largest of numbers among which one is none is none itself; single ones may be ruled out by -inf.
    return [token_id if value < math.inf else NO_TOKEN for token_id, value in zip(sampled, most.tolist(), strict=True)]


def _group_by_settings(rows: Sequence[Sampler]) -> dict[tuple[int, bool], list[int]]:
    """Group the rows that draw: by ``top_k``, and whether ``top_p`` is below 1."""
    groups: dict[tuple[int, bool], list[int]] = defaultdict(list)
    for place, row in enumerate(rows):
        if not row.sampling.greedy:
            groups[row.sampling.top_k, row.sampling.top_p < 1].append(place)
    return groups


def _draw(scores: Tensor, rows: Sequence[Sampler], top_k: int, nucleus: bool) -> list[int]:
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


def _gather_log_probs(log_probs: Tensor | None, counts: Sequence[tuple[int, int]]) -> list[StepLogProbs]:
    """Read log-probabilities off ``[rows, V]``; ``counts``: the sampled id of each row, and how many likeliest."""
    if log_probs is None:
        return []
    ids = torch.tensor([[max(token, 0)] for token, _ in counts], device=log_probs.device)
    sampled = log_probs.gather(1, ids)[:, 0].tolist()
    most = min(max(count for _, count in counts), log_probs.shape[1])
    values, likeliest = (tensor.tolist() for tensor in log_probs.topk(most))
    return [
        StepLogProbs(sampled[row], list(zip(likeliest[row][:count], values[row][:count], strict=True)))
        for row, (_, count) in enumerate(counts)
    ]
