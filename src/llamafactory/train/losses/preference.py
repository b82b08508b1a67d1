# SPDX-License-Identifier: Apache-2.0
"""Losses over pairs of completions of one prompt, each a pure function of log-probabilities.

Notation: for prompt x, chosen completion w and rejected completion l, ``h_w = log pi(w|x) - log ref(w|x)`` and the same
for ``h_l``; ``m = h_w - h_l``; beta is ``pref_beta``; s is the logistic function. Every function returns one loss a
pair.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Pairs(NamedTuple):
    """Log-probabilities of P pairs, summed over the tokens of a completion; each field is [P].

    Attributes:
        chosen: Of the chosen completions under the policy, with gradient.
        rejected: Of the rejected ones.
        ref_chosen: Under the reference; zeros for losses without one.
        ref_rejected: The same for the rejected ones.
        chosen_tokens: Length of the chosen completions, 1 or more.
        rejected_tokens: Length of the rejected ones.
    """

    chosen: Tensor
    rejected: Tensor
    ref_chosen: Tensor
    ref_rejected: Tensor
    chosen_tokens: Tensor
    rejected_tokens: Tensor

    @property
    def chosen_ratio(self) -> Tensor:
        """h_w."""
        return self.chosen - self.ref_chosen

    @property
    def rejected_ratio(self) -> Tensor:
        """h_l."""
        return self.rejected - self.ref_rejected

    @property
    def margin(self) -> Tensor:
        """m."""
        return self.chosen_ratio - self.rejected_ratio


class Settings(NamedTuple):
    """What the losses can be tuned by.

    Attributes:
        beta: Strength of the pull to the reference.
        smoothing: Share of pairs that are labelled the wrong way round.
        gamma: Margin of SimPO.
    """

    beta: float = 0.1
    smoothing: float = 0.0
    gamma: float = 0.5


PreferenceLoss = Callable[[Pairs, Settings], Tensor]


def reference_free(loss: PreferenceLoss) -> PreferenceLoss:
    """Mark a loss that needs no reference model."""
    loss.reference_free = True  # type: ignore[attr-defined]
    return loss


def sigmoid(pairs: Pairs, settings: Settings) -> Tensor:
    """DPO (Rafailov et al. 2023, eq. 7) with label smoothing e (cDPO, Mitchell 2023).

    ``-(1 - e) log s(beta m) - e log s(-beta m)``
    """
    return _smoothed(settings.beta * pairs.margin, settings.smoothing)


def hinge(pairs: Pairs, settings: Settings) -> Tensor:
    """Hinge of SLiC-HF (Zhao et al. 2023, eq. 1) on DPO's margin, as in RSO (Liu et al. 2023): max(0, 1 - beta m)."""
    return torch.relu(1 - settings.beta * pairs.margin)


def ipo(pairs: Pairs, settings: Settings) -> Tensor:
    """IPO (Azar et al. 2023, eq. 17), with ratios averaged over the tokens of a completion.

    ``(h_w / |w| - h_l / |l| - 1 / (2 beta))^2``
    """
    margin = pairs.chosen_ratio / pairs.chosen_tokens - pairs.rejected_ratio / pairs.rejected_tokens
    return (margin - 1 / (2 * settings.beta)) ** 2


def kto_pair(pairs: Pairs, settings: Settings) -> Tensor:
    """KTO (Ethayarajh et al. 2024, eq. 7) on pairs; each side's KL is estimated from the batch without gradient.

    ``((1 - s(beta (h_w - max(0, mean h_l)))) + (1 - s(beta (max(0, mean h_w) - h_l)))) / 2``
    """
    chosen, rejected = pairs.chosen_ratio, pairs.rejected_ratio
    chosen_kl, rejected_kl = chosen.detach().mean().clamp(min=0), rejected.detach().mean().clamp(min=0)
    wins = torch.sigmoid(settings.beta * (chosen - rejected_kl))
    losses = torch.sigmoid(settings.beta * (chosen_kl - rejected))
    return ((1 - wins) + (1 - losses)) / 2


@reference_free
def orpo(pairs: Pairs, settings: Settings) -> Tensor:
    """ORPO (Hong et al. 2024, eq. 6 and 7), no reference.

    With ``p = exp(mean token log-probability)`` and ``odds = p / (1 - p)``:
    ``-log p_w - beta log s(log odds_w - log odds_l)``
    """
    chosen, rejected = pairs.chosen / pairs.chosen_tokens, pairs.rejected / pairs.rejected_tokens
    log_odds = (chosen - rejected) - (_log_of_rest(chosen) - _log_of_rest(rejected))
    return -chosen - settings.beta * F.logsigmoid(log_odds)


@reference_free
def simpo(pairs: Pairs, settings: Settings) -> Tensor:
    """SimPO (Meng et al. 2024, eq. 6), no reference: ``-log s(beta (log pi_w / |w| - log pi_l / |l|) - gamma)``."""
    margin = pairs.chosen / pairs.chosen_tokens - pairs.rejected / pairs.rejected_tokens
    return -F.logsigmoid(settings.beta * margin - settings.gamma)


def robust(pairs: Pairs, settings: Settings) -> Tensor:
    """Robust DPO (Chowdhury et al. 2024, eq. 11), unbiased when a share e < 1/2 of the labels is flipped.

    ``(-(1 - e) log s(beta m) + e log s(-beta m)) / (1 - 2 e)``
    """
    logits, e = settings.beta * pairs.margin, settings.smoothing
    return (-(1 - e) * F.logsigmoid(logits) + e * F.logsigmoid(-logits)) / (1 - 2 * e)


def exo_pair(pairs: Pairs, settings: Settings) -> Tensor:
    """EXO (Ji et al. 2024, eq. 16): reverse KL to the smoothed label (1 - e, e), with ``q = s(beta m)``.

    ``q (log q - log(1 - e)) + (1 - q) (log(1 - q) - log e)``; needs e > 0.
    """
    logits, e = settings.beta * pairs.margin, torch.as_tensor(settings.smoothing, dtype=pairs.chosen.dtype)
    wins = torch.sigmoid(logits) * (F.logsigmoid(logits) - torch.log1p(-e))
    return wins + torch.sigmoid(-logits) * (F.logsigmoid(-logits) - torch.log(e))


def aot(pairs: Pairs, settings: Settings) -> Tensor:
    """Paired AOT (Melnyk et al. 2024): DPO on quantiles, both margins sorted over the batch (optimal transport in 1-D).

    ``d = sort(log pi_w - log pi_l) - sort(log ref_w - log ref_l)`` in place of m; with label smoothing.
    """
    policy = torch.sort(pairs.chosen - pairs.rejected).values
    reference = torch.sort(pairs.ref_chosen - pairs.ref_rejected).values
    return _smoothed(settings.beta * (policy - reference), settings.smoothing)


def apo_zero(pairs: Pairs, settings: Settings) -> Tensor:
    """APO-zero (D'Oosterlinck et al. 2024, eq. 7), for completions better than the model's.

    ``1 - s(beta h_w) + s(beta h_l)``
    """
    return 1 - torch.sigmoid(settings.beta * pairs.chosen_ratio) + torch.sigmoid(settings.beta * pairs.rejected_ratio)


def apo_down(pairs: Pairs, settings: Settings) -> Tensor:
    """APO-down (D'Oosterlinck et al. 2024, eq. 8), for completions worse than the model's.

    ``s(beta h_w) + 1 - s(beta m)``
    """
    return torch.sigmoid(settings.beta * pairs.chosen_ratio) + 1 - torch.sigmoid(settings.beta * pairs.margin)


def sppo_hard(pairs: Pairs, settings: Settings) -> Tensor:
    """SPPO (Wu et al. 2024, eq. 4.7) with certain labels: ``(h_w - 1 / (2 beta))^2 + (h_l + 1 / (2 beta))^2``."""
    half = 0.5 / settings.beta
    return (pairs.chosen_ratio - half) ** 2 + (pairs.rejected_ratio + half) ** 2


def nca(pairs: Pairs, settings: Settings) -> Tensor:
    """NCA for pairs (Chen et al. 2024, eq. 12): ``-log s(r_w) - (log s(-r_w) + log s(-r_l)) / 2``, ``r = beta h``."""
    chosen, rejected = settings.beta * pairs.chosen_ratio, settings.beta * pairs.rejected_ratio
    return -F.logsigmoid(chosen) - 0.5 * F.logsigmoid(-chosen) - 0.5 * F.logsigmoid(-rejected)


def discopop(pairs: Pairs, settings: Settings) -> Tensor:
    """DiscoPOP (Lu et al. 2024, eq. 5): logistic and exponential loss blended by ``k = s(beta m / 0.05)``.

    ``-(1 - k) log s(beta m) + k exp(-beta m)``
    """
    logits = settings.beta * pairs.margin
    blend = torch.sigmoid(logits / 0.05)
    return -(1 - blend) * F.logsigmoid(logits) + blend * torch.exp(-logits)


def bco_term(pairs: Pairs, settings: Settings, shift: Tensor | float) -> Tensor:
    """BCO (Jung et al. 2024, eq. 8), added by ``pref_bco_weight``; d is the mean reward seen so far.

    ``-log s(beta h_w - d) - log s(-(beta h_l - d))``
    """
    chosen, rejected = settings.beta * pairs.chosen_ratio, settings.beta * pairs.rejected_ratio
    return -F.logsigmoid(chosen - shift) - F.logsigmoid(shift - rejected)


def sft_term(pairs: Pairs) -> Tensor:
    """Mean token loss of each chosen completion, added by ``pref_ftx`` (Pang et al. 2024, eq. 1): -log pi_w / |w|."""
    return -pairs.chosen / pairs.chosen_tokens


def completion_sums(
    log_probs: Tensor, numbers: Tensor, count: int, ld_alpha: float | None = None
) -> tuple[Tensor, Tensor]:
    """Add up token log-probabilities by completion.

    With LD-DPO (Liu et al. 2024, eq. 9) a token beyond the length of its pair's shorter completion counts ``ld_alpha``.

    Args:
        log_probs: [N], tokens of one completion next to each other.
        numbers: [N] number of the completion that a token belongs to, rising; completions 2k and 2k + 1 are pair k.
        count: S, completions in all, even where ``ld_alpha`` is given.
        ld_alpha: Weight of the further tokens, None = 1.

    Returns:
        Sums [S] and numbers of tokens [S]; a completion without tokens has 0 and 0.
    """
    tokens = torch.zeros(count, dtype=torch.long, device=numbers.device).index_add(0, numbers, torch.ones_like(numbers))
    if ld_alpha is not None:
        shorter = tokens.view(-1, 2).amin(-1).repeat_interleave(2)
        place = torch.arange(len(numbers), device=numbers.device) - (tokens.cumsum(0) - tokens)[numbers]
        log_probs = torch.where(place < shorter[numbers], log_probs, ld_alpha * log_probs)
    return log_probs.new_zeros(count).index_add(0, numbers, log_probs), tokens


def _smoothed(logits: Tensor, smoothing: float) -> Tensor:
    return -(1 - smoothing) * F.logsigmoid(logits) - smoothing * F.logsigmoid(-logits)


def _log_of_rest(log_p: Tensor) -> Tensor:
    """Return log(1 - p) of ``log_p`` < 0, exact at both ends (Maechler 2012)."""
    near_one = log_p > -0.6931471805599453
    # Each branch sees harmless values where the other is chosen, so that no NaN reaches the gradient.
    small = torch.log(-torch.expm1(torch.where(near_one, log_p, -0.1)))
    large = torch.log1p(-torch.exp(torch.where(near_one, -1.0, log_p)))
    return torch.where(near_one, small, large)
