# SPDX-License-Identifier: Apache-2.0
"""Advantages: TRL's own code where it has it, else the papers' sums written as loops."""

from __future__ import annotations

import math
import statistics

import pytest
import torch
from torch import Tensor

from llamafactory.extras.errors import ConfigError
from llamafactory.train.losses.advantages import (
    AdaptiveKL,
    RunningMoments,
    gae,
    group_advantages,
    returns_to_go,
    token_rewards,
    whiten,
)


def _draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def mask() -> Tensor:
    """Completions of 5, 2 and 4 tokens, the last with a tool's answer in the middle."""
    return torch.tensor([[1, 1, 1, 1, 1, 0], [1, 1, 0, 0, 0, 0], [1, 1, 0, 0, 1, 1]])


def test_gae_is_the_weighted_sum_of_the_paper(mask: Tensor) -> None:
    rewards, values, gamma, lam = _draw(3, 6), _draw(3, 6, seed=1), 0.9, 0.8
    advantages, returns = gae(rewards, values, mask, gamma, lam)
    for i, row in enumerate(mask.bool()):
        r, v = rewards[i][row].tolist(), [*values[i][row].tolist(), 0.0]
        deltas = [r[t] + gamma * v[t + 1] - v[t] for t in range(len(r))]
        expected = [sum((gamma * lam) ** k * d for k, d in enumerate(deltas[t:])) for t in range(len(r))]
        torch.testing.assert_close(advantages[i][row], torch.tensor(expected, dtype=torch.float64))
        torch.testing.assert_close(returns[i][row], advantages[i][row] + values[i][row])
        assert advantages[i][~row].eq(0).all() and returns[i][~row].eq(0).all()


def test_gae_with_lambda_one_is_return_minus_value(mask: Tensor) -> None:
    rewards, values = _draw(3, 6), _draw(3, 6, seed=1)
    advantages, returns = gae(rewards, values, mask, 1.0, 1.0)
    torch.testing.assert_close(returns, returns_to_go(rewards, mask))
    torch.testing.assert_close(advantages, (returns - values) * mask)


def test_token_rewards_put_the_score_at_the_last_written_token(mask: Tensor) -> None:
    kl, scores = _draw(3, 6).abs(), torch.tensor([1.0, 2.0, math.nan])
    rewards = token_rewards(scores, kl, mask, 0.1)
    expected = -0.1 * kl * mask
    expected[0, 4] += 1.0
    expected[1, 1] += 2.0
    torch.testing.assert_close(rewards, expected)


def test_whiten_is_the_standard_score_of_what_was_written(mask: Tensor) -> None:
    values = 3 + 2 * _draw(3, 6)
    kept = values[mask.bool()].tolist()
    mean, deviation = statistics.mean(kept), statistics.stdev(kept)
    ours = whiten(values, mask)[mask.bool()].tolist()
    assert ours == pytest.approx([(value - mean) / deviation for value in kept], abs=1e-6)
    unshifted = whiten(values, mask, shift_mean=False)[mask.bool()].tolist()
    assert unshifted == pytest.approx([(value - mean) / deviation + mean for value in kept], abs=1e-6)
    assert whiten(values, mask)[~mask.bool()].eq(0).all()


def test_whitening_over_ranks_is_whitening_of_all(mask: Tensor) -> None:
    values = _draw(3, 6)
    whole, sums = whiten(values, mask), iter(_reductions(values, mask))
    torch.testing.assert_close(whiten(values[:1], mask[:1], reduce=lambda _: next(sums)), whole[:1])


def _reductions(values: Tensor, mask: Tensor) -> list[Tensor]:
    """What an all-reduce would hand to every rank: first amount and sum, then squares about the mean."""
    kept = values[mask.bool()]
    return [torch.stack([mask.sum().double(), kept.sum()]), ((kept - kept.mean()) ** 2).sum()]


def _by_group(rewards: list[float], size: int, rule: object) -> list[float]:
    groups = [rewards[start : start + size] for start in range(0, len(rewards), size)]
    return [rule(value, group) for group in groups for value in group]  # type: ignore[operator]


def test_group_advantages_are_the_papers_sums() -> None:
    rewards = (_draw(12) * 2).tolist()

    def standardized(value: float, group: list[float]) -> float:
        return (value - statistics.mean(group)) / (statistics.stdev(group) + 1e-4)

    def left_out(value: float, group: list[float]) -> float:
        others = list(group)
        others.remove(value)
        return value - statistics.mean(others)

    expected = {name: _by_group(rewards, 4, standardized) for name in ("grpo", "dapo", "gspo", "cispo")}
    expected["dr_grpo"] = _by_group(rewards, 4, lambda value, group: value - statistics.mean(group))
    expected["rloo"] = _by_group(rewards, 4, left_out)
    mean, deviation = statistics.mean(rewards), statistics.stdev(rewards)
    expected["reinforce_plus_plus"] = [(value - mean) / (deviation + 1e-4) for value in rewards]
    for name, values in expected.items():
        ours = group_advantages(name, torch.tensor(rewards, dtype=torch.float64), 4)
        assert ours.tolist() == pytest.approx(values, abs=1e-10), name


def test_the_divisor_can_be_chosen_apart() -> None:
    rewards = (_draw(12) * 2).tolist()
    tensor, spread = torch.tensor(rewards, dtype=torch.float64), statistics.stdev(rewards) + 1e-4
    centred = _by_group(rewards, 4, lambda value, group: value - statistics.mean(group))
    assert group_advantages("dapo", tensor, 4, "none").tolist() == pytest.approx(centred)
    assert group_advantages("dapo", tensor, 4, "batch").tolist() == pytest.approx([x / spread for x in centred])
    torch.testing.assert_close(group_advantages("dr_grpo", tensor, 4, "group"), group_advantages("grpo", tensor, 4))
    torch.testing.assert_close(group_advantages("rloo", tensor, 4, "none"), group_advantages("rloo", tensor, 4))


def test_bnpo_divides_by_the_density_of_the_success_rate() -> None:
    rewards = torch.tensor([1, 0, 0, 0, 1, 1, 1, 0, 1, 1, 0, 0, 1, 1, 1, 1], dtype=torch.float64)
    rates = [0.25, 0.75, 0.5, 1.0]
    mean, variance = statistics.mean(rates), statistics.pvariance(rates)
    a, b = (mean * (1 - mean) / variance - 1) * mean, (mean * (1 - mean) / variance - 1) * (1 - mean)
    # moments of Beta(a, b) are those of the batch
    assert a / (a + b) == pytest.approx(mean)
    assert a * b / ((a + b) ** 2 * (a + b + 1)) == pytest.approx(variance)
    density = torch.distributions.Beta(
        torch.tensor(1 + a / 3, dtype=torch.float64), torch.tensor(1 + b / 3, dtype=torch.float64)
    )
    ours = group_advantages("bnpo", rewards, 4).view(4, 4)
    for group, rate, advantage in zip(rewards.view(4, 4)[:3], rates[:3], ours[:3], strict=True):
        scale = density.log_prob(torch.tensor(rate, dtype=torch.float64)).exp()
        torch.testing.assert_close(advantage, (group - rate) / scale)
    assert ours[3].eq(0).all()  # all right: nothing to learn, although the density is 0 there
    same = torch.tensor([1.0, 0.0, 0.0, 1.0])
    torch.testing.assert_close(group_advantages("bnpo", same, 2), same - 0.5)  # no spread between prompts
    with pytest.raises(ConfigError, match=r"bnpo: needs rewards between 0 and 1 .*, got 3"):
        group_advantages("bnpo", torch.tensor([0.0, 3.0]), 2)


@pytest.mark.parametrize("name", ["grpo", "dr_grpo", "rloo", "reinforce_plus_plus", "bnpo"])
def test_no_opinion_is_left_out(name: str) -> None:
    nan = math.nan
    with_gaps = group_advantages(name, torch.tensor([1.0, nan, 0.0, 0.0, nan, nan, nan, 1.0]), 4)
    assert with_gaps[[1, 4, 5, 6]].eq(0).all() and with_gaps.isfinite().all()
    if name in ("grpo", "dr_grpo", "rloo"):
        without = group_advantages(name, torch.tensor([1.0, 0.0, 0.0]), 3)
        torch.testing.assert_close(with_gaps[[0, 2, 3]], without)
        assert with_gaps[7] == 0  # alone in its group


def test_equal_rewards_teach_nothing() -> None:
    for name in ("grpo", "dr_grpo", "rloo", "reinforce_plus_plus"):
        assert group_advantages(name, torch.full((6,), 0.3), 3).abs().max() < 1e-3, name


def test_adaptive_kl_moves_towards_its_target() -> None:
    control = AdaptiveKL(0.2, target=6.0, horizon=10_000)
    assert control.update(6.0, 64) == 0.2
    assert control.update(12.0, 64) == pytest.approx(0.2 * (1 + 0.2 * 64 / 10_000))
    assert AdaptiveKL(0.2, 6.0).update(5.4, 100) == pytest.approx(0.2 * (1 - 0.1 * 100 / 10_000))
    assert AdaptiveKL(0.2, 6.0).update(-5.0, 100) == pytest.approx(0.2 * (1 - 0.2 * 100 / 10_000))


def test_running_moments_are_those_of_everything_seen() -> None:
    values, moments = (3 + _draw(20)).tolist(), RunningMoments()
    assert moments.normalize(torch.tensor([5.0])).item() == 5.0
    for part in (values[:1], values[1:4], [math.nan], values[4:]):
        moments.update(torch.tensor(part, dtype=torch.float64))
    expected = (7.0 - statistics.mean(values)) / statistics.stdev(values)
    assert moments.normalize(torch.tensor([7.0], dtype=torch.float64)).item() == pytest.approx(expected, abs=1e-9)
