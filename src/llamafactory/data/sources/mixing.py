# SPDX-License-Identifier: Apache-2.0
"""How several data sets become one: joined, or interleaved by weights."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...extras.errors import ConfigError


def mix(
    sizes: Sequence[int], strategy: str, weights: Sequence[float] | None, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Choose the order in which rows of several sets appear.

    Args:
        sizes: Rows of each set.
        strategy: ``concat`` (one after the other), ``interleave_under`` (until the first set is used up),
            ``interleave_over`` (until every set was used up; used-up sets start again), ``interleave_once`` (every row
            exactly once; used-up sets fall out).
        weights: How often each set is drawn, in any unit; None = in turn.
        seed: Of the draws.

    Returns:
        ``(source, row)``, both int64 of the same length: set number and row number in it.

    Raises:
        ConfigError: The number or sign of the weights is wrong, or a set to interleave is empty.
    """
    counts = np.asarray(sizes, dtype=np.int64)
    if strategy == "concat" or len(counts) == 1:
        return np.repeat(np.arange(len(counts)), counts), np.concatenate([np.arange(count) for count in counts])
    if not counts.all():
        raise ConfigError(
            f"mix_strategy: {strategy}: set {int(np.argmin(counts)) + 1} of {len(counts)} has no row left"
        )
    draws = _Draws(_shares(weights, len(counts)), np.random.default_rng(seed))
    if strategy == "interleave_once":
        return _once(counts, draws)
    source = np.empty(0, dtype=np.int64)
    while True:
        source = np.concatenate([source, draws.take(np.arange(len(counts)), int(counts.sum()))])
        used_up = [np.flatnonzero(source == index)[count - 1 : count] for index, count in enumerate(counts)]
        ends = [int(position[0]) + 1 for position in used_up if len(position)]
        if strategy == "interleave_under" and ends:
            source = source[: min(ends)]
            break
        if strategy == "interleave_over" and len(ends) == len(counts):
            source = source[: max(ends)]
            break
    return source, _occurrence(source, len(counts)) % counts[source]


def _once(counts: np.ndarray, draws: _Draws) -> tuple[np.ndarray, np.ndarray]:
    """Draw until every row was taken. Striking the draws of a used-up set leaves the others' odds as they were."""
    source = np.empty(0, dtype=np.int64)
    while len(source) < counts.sum():
        taken = np.bincount(source, minlength=len(counts))
        source = np.concatenate([source, draws.take(np.flatnonzero(taken < counts), int(counts.sum() - len(source)))])
        source = source[_occurrence(source, len(counts)) < counts[source]]
    return source, _occurrence(source, len(counts))


class _Draws:
    """An endless row of set numbers: drawn by share, or in turn when there are no shares."""

    def __init__(self, shares: np.ndarray | None, rng: np.random.Generator) -> None:
        self.shares, self.rng = shares, rng

    def take(self, sets: np.ndarray, number: int) -> np.ndarray:
        """Return at least ``number`` draws among ``sets``."""
        if self.shares is None:
            return np.tile(sets, -(-number // len(sets)))
        shares = self.shares[sets]
        return self.rng.choice(sets, size=number, p=shares / shares.sum())


def _shares(weights: Sequence[float] | None, number: int) -> np.ndarray | None:
    if weights is None:
        return None
    if len(weights) != number:
        raise ConfigError(f"interleave_probs: {len(weights)} weights for {number} data sets; give one each")
    if any(not weight > 0 for weight in weights):
        raise ConfigError(f"interleave_probs: {', '.join(map(str, weights))}: every weight must be greater than 0")
    shares = np.asarray(weights, dtype=np.float64)
    return shares / shares.sum()


def _occurrence(source: np.ndarray, number: int) -> np.ndarray:
    """Return how often each element's set occurred before it."""
    seen = np.empty(len(source), dtype=np.int64)
    for index in range(number):
        positions = np.flatnonzero(source == index)
        seen[positions] = np.arange(len(positions))
    return seen
