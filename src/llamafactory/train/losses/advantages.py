# SPDX-License-Identifier: Apache-2.0
"""From rewards to advantages: GAE with a critic (stage ppo), groups of completions without one (stage grpo).

Tensors of tokens are [N, T] with a mask [N, T], 1 at tokens that the policy wrote; masked-out tokens between them (the
results of tools) are stepped over as if they were not there. Nothing here carries a gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from ...extras.errors import ConfigError

_EPSILON = 1e-4  # keeps groups of almost equal rewards from being blown up

Reduce = Callable[[Tensor], Tensor]
Scale = Literal["group", "batch", "none"]


def token_rewards(scores: Tensor, kl: Tensor, mask: Tensor, beta: Tensor | float) -> Tensor:
    """Rewards of tokens: ``-beta KL_t``, and the score at the last token (Ouyang et al. 2022, eq. 2).

    Args:
        scores: [N], of whole completions; no opinion (nan) counts as 0.
        kl: [N, T] from :func:`.policy.kl_estimate`.
        mask: [N, T].
        beta: Weight of the KL.

    Returns:
        [N, T], 0 outside the mask. A completion without tokens keeps none of its score.
    """
    written = mask.bool()
    places = torch.arange(mask.shape[1], device=mask.device)
    last = torch.where(written, places, -1).amax(-1, keepdim=True)
    rewards = (-beta * kl).masked_fill(~written, 0.0)
    return rewards + torch.where(places == last, scores.nan_to_num(0.0).to(kl.dtype).unsqueeze(1), 0.0)


def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Generalized advantage estimation (Schulman et al. 2015, eq. 11 and 16), of episodes that end at the last token.

    ``delta_t = r_t + gamma V_{t+1} - V_t``, ``A_t = delta_t + gamma lambda A_{t+1}``, ``R_t = A_t + V_t``

    Args:
        rewards: r [N, T].
        values: V [N, T].
        mask: [N, T].
        gamma: Discount.
        lam: lambda.

    Returns:
        Advantages A and returns R, each [N, T] and 0 outside the mask.
    """
    written = mask.bool()
    advantages, zero = torch.zeros_like(values), values.new_zeros(len(values))
    next_value, next_advantage = zero, zero
    for t in reversed(range(values.shape[1])):
        here = written[:, t]
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        next_advantage = torch.where(here, delta + gamma * lam * next_advantage, next_advantage)
        next_value = torch.where(here, values[:, t], next_value)
        advantages[:, t] = torch.where(here, next_advantage, zero)
    return advantages, (advantages + values).masked_fill(~written, 0.0)


def returns_to_go(rewards: Tensor, mask: Tensor) -> Tensor:
    """Return of each token, ``sum_{s >= t} r_s`` (Williams 1992); whitened, with the KL in r: REINFORCE++ (Hu 2025)."""
    kept = rewards.masked_fill(~mask.bool(), 0.0)
    return kept.flip(-1).cumsum(-1).flip(-1).masked_fill(~mask.bool(), 0.0)


def whiten(values: Tensor, mask: Tensor, shift_mean: bool = True, reduce: Reduce | None = None) -> Tensor:
    """Scale to unit variance and shift to zero mean (Hu 2025, global normalization; for PPO Andrychowicz et al. 2020).

    Args:
        values: [N, T] or [N].
        mask: The same shape; what stands outside it is not counted and comes back as 0.
        shift_mean: False keeps the mean.
        reduce: Sums a tensor over ranks, so that all ranks' values are one batch; None = this rank alone.
    """
    weight = mask.to(values.dtype)
    values = values.masked_fill(~mask.bool(), 0.0)
    total = reduce or (lambda tensor: tensor)
    amount, summed = total(torch.stack([weight.sum(), values.sum()])).unbind()
    mean = summed / amount.clamp(min=1)
    spread = total(((values - mean) ** 2 * weight).sum()) / (amount - 1).clamp(min=1)
    whitened = (values - mean) * torch.rsqrt(spread + 1e-8)
    return (whitened if shift_mean else whitened + mean) * weight


def group_advantages(name: str, rewards: Tensor, group_size: int, scale: Scale | None = None) -> Tensor:
    """Return [N] one advantage a completion, without a critic.

    Args:
        name: A key of :data:`ADVANTAGES`; every loss of stage grpo is one.
        rewards: [N], the completions of one prompt in a row; nan = no opinion: left out of every mean, advantage 0.
            All ranks' rewards are to be gathered before, for some estimators look beyond the group.
        group_size: Completions of one prompt; N is a multiple of it.
        scale: Divide by the standard deviation of the group or of the batch instead, or by nothing; None = as the paper
            of ``name`` has it. The baseline then is the mean of the group (for ``rloo`` of the others in it).

    Raises:
        ConfigError: ``bnpo`` with a reward that is not between 0 and 1.
    """
    assert rewards.dim() == 1 and len(rewards) % group_size == 0, (rewards.shape, group_size)
    groups = rewards.view(-1, group_size)
    if scale is None:
        return ADVANTAGES[name](groups).nan_to_num(0.0, 0.0, 0.0).flatten()
    centred = _leave_one_out(groups) if name == "rloo" else _centred(groups)
    if scale != "none":
        centred = centred / (_deviation(groups if scale == "group" else rewards, -1) + _EPSILON)
    return centred.nan_to_num(0.0, 0.0, 0.0).flatten()


def _standardized(groups: Tensor) -> Tensor:
    """GRPO (Shao et al. 2024, sec. 4.1.2): (r - mean) / std of the group."""
    return _centred(groups) / (_deviation(groups, -1) + _EPSILON)


def _centred(groups: Tensor) -> Tensor:
    """Dr. GRPO (Liu et al. 2025, sec. 3.2): r - mean of the group."""
    return groups - groups.nanmean(-1, keepdim=True)


def _leave_one_out(groups: Tensor) -> Tensor:
    """RLOO (Kool et al. 2019; Ahmadian et al. 2024, sec. 3.3): r - mean of the other completions of the group."""
    known = (~groups.isnan()).sum(-1, keepdim=True)
    others = (groups.nansum(-1, keepdim=True) - groups) / (known - 1)
    return torch.where(known > 1, groups - others, 0.0)


def _standardized_by_batch(groups: Tensor) -> Tensor:
    """REINFORCE++ (Hu 2025) on completions: (r - mean) / std of the whole batch, no groups."""
    flat = groups.flatten()
    return (groups - flat.nanmean()) / (_deviation(flat, 0) + _EPSILON)


def _beta_normalized(groups: Tensor) -> Tensor:
    """BNPO (Xiao et al. 2025): (r - p) / Beta(p; 1 + a/3, 1 + b/3) with p the mean of a group of rewards 0 or 1.

    Beta(a, b) is the distribution of p over prompts, by the method of moments from this batch; the normalizer's two
    parameters are those of least variance of the gradient. Without spread between prompts there is nothing to
    normalize: Beta(1, 1) = 1.
    """
    outside = groups[(groups < 0) | (groups > 1)]
    if len(outside):
        raise ConfigError(f"bnpo: needs rewards between 0 and 1 (right or wrong), got {outside[0].item():g}")
    rate = groups.nanmean(-1, keepdim=True)
    mean = rate.nanmean()
    variance = ((rate - mean) ** 2).nanmean()
    if not variance > 0:
        return groups - rate
    sharpness = (mean * (1 - mean) / variance - 1).clamp(min=0)
    alpha, beta = 1 + sharpness * mean / 3, 1 + sharpness * (1 - mean) / 3
    log_norm = torch.lgamma(alpha) + torch.lgamma(beta) - torch.lgamma(alpha + beta)
    log_density = torch.xlogy(alpha - 1, rate) + torch.xlogy(beta - 1, 1 - rate) - log_norm
    return (groups - rate) * torch.exp(-log_density)


def _deviation(values: Tensor, dim: int) -> Tensor:
    """Standard deviation (n - 1) along ``dim``, kept; nan is left out, and 0 where fewer than two are known."""
    known = (~values.isnan()).sum(dim, keepdim=True)
    squares = ((values - values.nanmean(dim, keepdim=True)) ** 2).nansum(dim, keepdim=True)
    return (squares / (known - 1).clamp(min=1)).sqrt()


ADVANTAGES: dict[str, Callable[[Tensor], Tensor]] = {
    "grpo": _standardized,
    "dapo": _standardized,
    "gspo": _standardized,
    "cispo": _standardized,
    "dr_grpo": _centred,
    "bnpo": _beta_normalized,
    "rloo": _leave_one_out,
    "reinforce_plus_plus": _standardized_by_batch,
}


class AdaptiveKL:
    """Keeps the KL near a target by moving its weight (Ziegler et al. 2019, sec. 2.2).

    ``e = clip(KL / target - 1, -0.2, 0.2)``, ``beta <- beta (1 + e n / horizon)`` after n completions.

    Attributes:
        coefficient: beta, now.
    """

    def __init__(self, init: float, target: float, horizon: float = 10_000) -> None:
        self.coefficient, self.target, self.horizon = init, target, horizon

    def update(self, kl: float, steps: int) -> float:
        """Look at the mean KL of ``steps`` completions (summed over tokens) and return the new weight."""
        error = min(max(kl / self.target - 1, -0.2), 0.2)
        self.coefficient *= 1 + error * steps / self.horizon
        return self.coefficient


class RunningMoments:
    """Mean and variance of all rewards so far, for ``ppo_score_norm`` (Chan et al. 1979, parallel variance)."""

    def __init__(self) -> None:
        self.count, self.mean, self.squares = 0, 0.0, 0.0

    def update(self, values: Tensor) -> None:
        """Take in ``values`` [n] (of all ranks); nan is left out."""
        known = values[~values.isnan()].double()
        if not len(known):
            return
        mean, total = known.mean().item(), self.count + len(known)
        shift = mean - self.mean
        self.squares += ((known - mean) ** 2).sum().item() + shift**2 * self.count * len(known) / total
        self.mean += shift * len(known) / total
        self.count = total

    def normalize(self, values: Tensor) -> Tensor:
        """Return (values - mean) / std; unchanged before there are two values that differ."""
        deviation = (self.squares / max(self.count - 1, 1)) ** 0.5
        return values if deviation == 0 else (values - self.mean) / deviation
