# SPDX-License-Identifier: Apache-2.0
"""Losses of policy-gradient training (stages ppo and grpo) as token terms and token weights.

Notation: completion i of N has tokens o_t, t < |o_i|; r_t = pi(o_t) / old(o_t) is the ratio of the policy in training
to the one that sampled; A is the advantage; e- and e+ are ``clip_low`` and ``clip_high``. All tensors are [N, T] with a
mask [N, T], 1 at tokens that the policy wrote (holes, as results of tools leave, are allowed).

A loss comes in two parts, so that a step may be cut into micro-batches in any way::

    terms, clipped = policy_token_losses(name, log_probs, old, advantages, mask, settings, ref_log_probs)
    loss = sum over micro-batches of (terms * loss_weights(name, mask, settings, items)).sum()

``items`` counts the whole step, over micro-batches and ranks. Where ``POLICY_LOSSES[name].kl_in_reward``, the pull to
the reference belongs into the rewards (:func:`.advantages.token_rewards`) and ``settings.beta`` must be 0 here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

KL = Literal["k1", "k2", "k3"]
Norm = Literal["completion", "token", "length"]
Ratio = Literal["token", "mean", "product"]


@dataclass(frozen=True)
class PolicySettings:
    """What the losses can be tuned by.

    Attributes:
        clip_low: e-, how far a ratio may fall below 1.
        clip_high: e+, how far it may rise above 1.
        beta: Weight of the KL to the reference as a term of the loss.
        kl: Its estimator.
        loss_norm: What a step is divided by; None = as the paper of the loss has it.
        max_length: Most tokens a completion may have; the divisor of the norm ``length``.
        delta: Largest ratio where the advantage is negative, else unbounded there (two-sided clipping); above 1 + e+.
    """

    clip_low: float = 0.2
    clip_high: float = 0.2
    beta: float = 0.0
    kl: KL = "k3"
    loss_norm: Norm | None = None
    max_length: int = 1
    delta: float | None = None


class StepItems(NamedTuple):
    """Counts of a whole optimizer step, over micro-batches and ranks: numbers or scalar tensors."""

    completions: Tensor | float
    tokens: Tensor | float


@dataclass(frozen=True)
class PolicyLoss:
    """One loss, by what it is made of.

    Attributes:
        ratio: ``token`` r_t; ``mean`` (prod r_t)^(1/|o|), the geometric mean; ``product`` prod r_t.
        norm: ``completion`` mean over tokens, then over completions; ``token`` mean over all tokens of the step;
            ``length`` sum over tokens / ``max_length``, mean over completions.
        surrogate: False: the policy gradient weighted by the capped ratio; True: PPO's clipped objective.
        kl_in_reward: The paper takes the KL off the rewards and not into the loss.
    """

    ratio: Ratio = "token"
    norm: Norm = "token"
    surrogate: bool = True
    kl_in_reward: bool = False


# Where each comes from:
#   ppo: Schulman et al. 2017, eq. 7, L = -mean_t min(r_t A_t, clip(r_t, 1 - e-, 1 + e+) A_t); KL in the rewards as in
#     Ouyang et al. 2022, eq. 2.
#   grpo: Shao et al. 2024 (DeepSeekMath), eq. 3: PPO's term, mean over the tokens of each completion, then over those.
#   dr_grpo: Liu et al. 2025 (Understanding R1-Zero-Like Training), sec. 3.2: a constant in place of 1 / |o_i|.
#   dapo: Yu et al. 2025, eq. 8: clip_high above clip_low ("clip higher"), mean over the tokens of the step (eq. 12).
#   bnpo: Xiao et al. 2025: advantages normalized by a Beta density (advantages.py), mean over the tokens of the batch.
#   gspo: Zheng et al. 2025, eq. 5 and 7: s_i = (prod r_t)^(1/|o_i|) in place of r_t, mean over completions.
#   cispo: MiniMax 2025 (M1), eq. 4 and 5: -mean_t sg(min(r_t, 1 + e+)) A log pi(o_t); the weight is capped, no token is
#     left without gradient, and there is no lower bound.
#   rloo: Ahmadian et al. 2024, sec. 3.3: a whole completion is one action, so its ratio is prod r_t; clipped as in PPO
#     when completions are used more than once.
#   reinforce_plus_plus: Hu 2025: PPO's term without a critic, mean over tokens, KL in the rewards.
POLICY_LOSSES: dict[str, PolicyLoss] = {
    "ppo": PolicyLoss(kl_in_reward=True),
    "grpo": PolicyLoss(norm="completion"),
    "dr_grpo": PolicyLoss(norm="length"),
    "dapo": PolicyLoss(),
    "bnpo": PolicyLoss(),
    "gspo": PolicyLoss(ratio="mean", norm="completion"),
    "cispo": PolicyLoss(surrogate=False),
    "rloo": PolicyLoss(ratio="product", norm="completion", kl_in_reward=True),
    "reinforce_plus_plus": PolicyLoss(kl_in_reward=True),
}


def policy_token_losses(
    name: str,
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    settings: PolicySettings,
    ref_log_probs: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the terms of a loss, one a token; see :data:`POLICY_LOSSES` for papers and equations.

    The clipped objective is ``-min(min(r, delta) A, clip(r, 1 - e-, 1 + e+) A)``, delta from INTELLECT-2 (Prime
    Intellect 2025); the KL term ``beta KL_t`` is added to it (Shao et al. 2024, eq. 3).

    Args:
        name: A key of ``POLICY_LOSSES``.
        log_probs: [N, T] of the policy in training, with gradient; what stands outside the mask is not looked at.
        old_log_probs: [N, T] of the policy that sampled.
        advantages: [N] or [N, T].
        mask: [N, T], 1 = a token the policy wrote.
        settings: Clipping and KL.
        ref_log_probs: [N, T] of the reference; needed when ``settings.beta`` is not 0.

    Returns:
        Terms [N, T], 0 outside the mask, and whether clipping changed a token's term (bool [N, T]).
    """
    loss, written = POLICY_LOSSES[name], mask.bool()
    assert settings.beta == 0 or not loss.kl_in_reward, f"{name}: the KL belongs into the rewards"
    advantages = advantages.unsqueeze(1) if advantages.dim() == 1 else advantages
    log_probs = log_probs.masked_fill(~written, 0.0)
    ratio = _ratios(loss.ratio, log_probs - old_log_probs.masked_fill(~written, 0.0), written)
    high = 1 + settings.clip_high
    if loss.surrogate:
        bounded = ratio if settings.delta is None else ratio.clamp(max=settings.delta)
        terms = -torch.min(bounded * advantages, ratio.clamp(1 - settings.clip_low, high) * advantages)
        clipped = torch.where(advantages > 0, ratio > high, (ratio < 1 - settings.clip_low) | (ratio != bounded))
        clipped = clipped & (advantages != 0)
    else:
        terms = -ratio.clamp(max=high).detach() * advantages * log_probs
        clipped = ratio > high
    if settings.beta != 0:
        assert ref_log_probs is not None, "beta needs the reference"
        terms = terms + settings.beta * kl_estimate(log_probs, ref_log_probs.masked_fill(~written, 0.0), settings.kl)
    return terms.masked_fill(~written, 0.0), clipped & written


def loss_weights(name: str, mask: Tensor, settings: PolicySettings, items: StepItems) -> Tensor:
    """Return [N, T] the factor of each token's term, so that the sum over a whole step is the paper's loss.

    Args:
        name: A key of ``POLICY_LOSSES``; ``settings.loss_norm`` overrides its norm.
        mask: [N, T] of one micro-batch.
        settings: See there.
        items: Counts of the whole step.
    """
    written = mask if mask.is_floating_point() else mask.float()
    norm = settings.loss_norm or POLICY_LOSSES[name].norm
    if norm == "token":
        return written / items.tokens
    if norm == "length":
        return written / (items.completions * settings.max_length)
    return written / (written.sum(-1, keepdim=True).clamp(min=1) * items.completions)


def kl_estimate(log_probs: Tensor, ref_log_probs: Tensor, kind: KL = "k3") -> Tensor:
    """Estimate KL(pi || ref) from single samples of pi (Schulman 2020, "Approximating KL Divergence").

    With d = log pi - log ref: k1 = d (unbiased, may be negative), k2 = d^2 / 2 (its gradient is that of the KL),
    k3 = exp(-d) - 1 + d (unbiased, never negative; GRPO's choice, Shao et al. 2024, eq. 4).
    """
    difference = log_probs - ref_log_probs
    if kind == "k1":
        return difference
    if kind == "k2":
        return difference**2 / 2
    return torch.expm1(-difference) + difference


def value_loss(values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, clip: float | None) -> Tensor:
    """Loss of the critic, clipped as PPO's objective is (Schulman et al. 2015, GAE; clipping as in OpenAI's baselines).

    ``max((V - R)^2, (clip(V, V_old - c, V_old + c) - R)^2) / 2``

    Args:
        values: V [N, T], with gradient.
        old_values: V_old [N, T], when the completions were sampled.
        returns: R [N, T] from :func:`.advantages.gae`.
        mask: [N, T].
        clip: c; None = no clipping.

    Returns:
        [N, T], 0 outside the mask.
    """
    loss = (values - returns) ** 2
    if clip is not None:
        kept = torch.clamp(values, old_values - clip, old_values + clip)
        loss = torch.max(loss, (kept - returns) ** 2)
    return (loss / 2).masked_fill(~mask.bool(), 0.0)


def _ratios(kind: Ratio, differences: Tensor, written: Tensor) -> Tensor:
    """Return r [N, T] from log pi - log old, 0 outside the mask; ratios of sequences are repeated over their tokens."""
    if kind == "token":
        return differences.exp()
    total = differences.sum(-1, keepdim=True)
    if kind == "mean":
        total = total / written.sum(-1, keepdim=True).clamp(min=1)
    return total.exp().expand_as(differences)
