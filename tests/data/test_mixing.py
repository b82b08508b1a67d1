# SPDX-License-Identifier: Apache-2.0
"""Mixes against their definitions, counted."""

from __future__ import annotations

import numpy as np
import pytest

from llamafactory.data.mixing import mix
from llamafactory.extras.errors import ConfigError


def test_concat_keeps_sets_one_after_the_other() -> None:
    source, row = mix([2, 3], "concat", None, seed=0)
    assert (source.tolist(), row.tolist()) == ([0, 0, 1, 1, 1], [0, 1, 0, 1, 2])


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ("interleave_under", "a0 b0 a1"),
        ("interleave_over", "a0 b0 a1 b1 a0 b2 a1 b3"),
        ("interleave_once", "a0 b0 a1 b1 b2 b3"),
    ],
)
def test_in_turn_without_weights(strategy: str, expected: str) -> None:
    source, row = mix([2, 4], strategy, None, seed=0)
    assert " ".join(f"{'ab'[s]}{r}" for s, r in zip(source, row, strict=True)) == expected


@pytest.mark.parametrize("strategy", ["interleave_under", "interleave_over"])
def test_realised_shares_are_within_one_percent_of_the_asked(strategy: str) -> None:
    weights = [7, 2, 1]  # need not sum to 1
    source, _ = mix([60_000, 60_000, 60_000], strategy, weights, seed=1)
    shares = np.bincount(source) / len(source)
    assert shares == pytest.approx([0.7, 0.2, 0.1], abs=0.01)


def test_under_stops_with_the_first_set_and_over_with_the_last() -> None:
    source, row = mix([50, 1000], "interleave_under", [0.5, 0.5], seed=3)
    assert (source == 0).sum() == 50
    assert source[-1] == 0
    source, row = mix([50, 1000], "interleave_over", [0.5, 0.5], seed=3)
    assert (source == 1).sum() == 1000
    assert source[-1] == 1
    assert set(row[source == 0]) == set(range(50)), "the small set starts again from its first row"
    assert (source == 0).sum() > 900


def test_once_takes_every_row_once_at_the_asked_odds_while_both_last() -> None:
    sizes = [3000, 20_000]
    source, row = mix(sizes, "interleave_once", [0.75, 0.25], seed=5)
    for number, size in enumerate(sizes):
        assert row[source == number].tolist() == list(range(size))
    both = source[: np.flatnonzero(source == 0)[-1]]
    assert (both == 0).mean() == pytest.approx(0.75, abs=0.03)


def test_a_seed_gives_one_order() -> None:
    first, again, other = (mix([90, 90], "interleave_under", [0.5, 0.5], seed)[0].tolist() for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize("weights", [[1.0], [1.0, 0.0], [1.0, -2.0], [float("nan"), 1.0]])
def test_wrong_weights_are_refused(weights: list[float]) -> None:
    with pytest.raises(ConfigError, match="interleave_probs"):
        mix([3, 3], "interleave_under", weights, seed=0)
