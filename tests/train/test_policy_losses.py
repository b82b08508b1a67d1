# SPDX-License-Identifier: Apache-2.0
"""Policy losses: TRL's own code, and loops over tokens as the papers write them; value and gradient in float64."""

from __future__ import annotations

import math
import types
from collections import defaultdict
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from llamafactory.train.losses.policy import (
    POLICY_LOSSES,
    PolicySettings,
    StepItems,
    kl_estimate,
    loss_weights,
    policy_token_losses,
    value_loss,
)

_LENGTH = 7  # max_length of the step, one more than the longest completion
_TRL = {  # name -> TRL's loss_type and level of the ratio
    "grpo": ("grpo", "token"), "dr_grpo": ("dr_grpo", "token"), "dapo": ("dapo", "token"), "bnpo": ("bnpo", "token"),
    "gspo": ("grpo", "sequence"), "cispo": ("cispo", "token"),
}  # fmt: skip


class _Batch(NamedTuple):
    """6 completions of up to 6 tokens, one of them with a hole, one empty."""

    log_probs: Tensor
    old: Tensor
    ref: Tensor
    advantages: Tensor
    mask: Tensor


@pytest.fixture
def batch() -> _Batch:
    generator = torch.Generator().manual_seed(3)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    old = -2 + 0.5 * draw(6, 6)
    mask = (torch.arange(6) < torch.tensor([[6], [3], [5], [0], [6], [4]])).double()
    mask[4, 2:4] = 0
    return _Batch((old + 0.4 * draw(6, 6)).requires_grad_(), old, old + 0.3 * draw(6, 6), draw(6), mask)


def _settings(**more: Any) -> PolicySettings:
    return PolicySettings(clip_low=0.2, clip_high=0.28, max_length=_LENGTH, **more)


def _loss(name: str, batch: _Batch, settings: PolicySettings, items: StepItems | None = None) -> Tensor:
    items = items or StepItems(len(batch.mask), batch.mask.sum())
    terms, _ = policy_token_losses(
        name, batch.log_probs, batch.old, batch.advantages, batch.mask, settings, batch.ref if settings.beta else None
    )
    return (terms * loss_weights(name, batch.mask, settings, items)).sum()


def _gradient(loss: Tensor, batch: _Batch) -> Tensor:
    return torch.autograd.grad(loss, batch.log_probs, retain_graph=True)[0]


def _same(ours: Tensor, theirs: Tensor, batch: _Batch) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)
    torch.testing.assert_close(_gradient(ours, batch), _gradient(theirs, batch), rtol=0, atol=1e-10)
    assert _gradient(ours, batch).abs().max() > 1e-3  # equal zeros would prove nothing


def _accelerator() -> Any:
    return types.SimpleNamespace(
        num_processes=1, gather=lambda x: x, reduce=lambda x, reduction: x, gather_for_metrics=lambda x: x
    )


def _trl_grpo(kind: str, level: str, batch: _Batch, settings: PolicySettings, accumulation: int = 1) -> Tensor:
    """Run TRL's own ``GRPOTrainer._compute_loss`` on given token log-probabilities."""
    from trl import GRPOTrainer

    blank = torch.zeros_like(batch.mask)
    stub: Any = types.SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *_, **__: (batch.log_probs, blank, None), accelerator=_accelerator(),
        args=types.SimpleNamespace(
            use_bias_correction_kl=False, delta=settings.delta, steps_per_generation=accumulation
        ),
        model=types.SimpleNamespace(training=True), _metrics={"train": defaultdict(list)}, beta=settings.beta,
        aux_loss_enabled=False, top_entropy_quantile=1.0, off_policy_mask_threshold=None, loss_type=kind,
        importance_sampling_level=level, epsilon_low=settings.clip_low, use_vllm=False, _entropy_bonus_enabled=False,
        epsilon_high=settings.clip_high if kind != "cispo" else 1 + settings.clip_high,
        max_completion_length=settings.max_length, current_gradient_accumulation_steps=accumulation,
    )  # fmt: skip
    ids = torch.zeros(len(batch.mask), 1, dtype=torch.long)
    inputs = {
        "prompt_ids": ids, "prompt_mask": ids, "completion_ids": batch.mask.long(), "completion_mask": batch.mask,
        "advantages": batch.advantages, "old_per_token_logps": batch.old, "ref_per_token_logps": batch.ref,
        "num_items_in_batch": batch.mask.sum() * accumulation,
    }  # fmt: skip
    return GRPOTrainer._compute_loss(stub, None, inputs)


@pytest.mark.parametrize("beta", [0.0, 0.1])
@pytest.mark.parametrize(
    ("name", "delta"),
    [
        (name, delta) for name in _TRL for delta in (None, 1.4) if name != "cispo" or delta is None
    ],  # cispo has one bound
)
def test_grpo_family_is_that_of_trl(name: str, delta: float | None, beta: float, batch: _Batch) -> None:
    settings = _settings(beta=beta, delta=delta)
    _same(_loss(name, batch, settings), _trl_grpo(*_TRL[name], batch, settings), batch)


def test_rloo_is_that_of_trl(batch: _Batch) -> None:
    from trl import RLOOTrainer

    settings = PolicySettings(clip_low=0.4, clip_high=0.8)
    batch.advantages[3] = 0.0  # TRL adds the empty completion's advantage, a constant, to the value
    blank, ids = torch.zeros_like(batch.mask), torch.zeros(len(batch.mask), 1, dtype=torch.long)
    stub: Any = types.SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *_, **__: (batch.log_probs, blank, None), accelerator=_accelerator(),
        model=types.SimpleNamespace(training=True), _metrics={"train": defaultdict(list)}, aux_loss_enabled=False,
        epsilon_low=settings.clip_low, epsilon_high=settings.clip_high,
    )  # fmt: skip
    inputs = {
        "prompt_ids": ids, "prompt_mask": ids, "completion_ids": batch.mask.long(), "completion_mask": batch.mask,
        "advantages": batch.advantages, "old_logps": (batch.old * batch.mask).sum(-1),
    }  # fmt: skip
    _same(_loss("rloo", batch, settings), RLOOTrainer._compute_loss(stub, None, inputs), batch)


@pytest.mark.parametrize("name", ["ppo", "reinforce_plus_plus"])
def test_ppo_with_token_advantages_is_the_paper_written_as_a_loop(name: str, batch: _Batch) -> None:
    advantages = torch.randn(6, 6, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    terms = []
    for i, row in enumerate(batch.mask.tolist()):
        for t in range(6):
            if row[t]:
                ratio = (batch.log_probs[i, t] - batch.old[i, t]).exp()
                advantage = advantages[i, t]
                bounded = min(
                    max(ratio, torch.tensor(0.8, dtype=torch.float64)), torch.tensor(1.28, dtype=torch.float64)
                )
                terms.append(-min(ratio * advantage, bounded * advantage))
    expected = torch.stack(terms).mean()
    _same(_loss(name, batch._replace(advantages=advantages), _settings()), expected, batch)


@pytest.mark.parametrize("name", POLICY_LOSSES)
def test_micro_batches_sum_to_the_step(name: str, batch: _Batch) -> None:
    settings = _settings(beta=0.0 if POLICY_LOSSES[name].kl_in_reward else 0.05)
    items = StepItems(len(batch.mask), batch.mask.sum())
    parts = [_Batch(*(field[part] for field in batch)) for part in (slice(0, 1), slice(1, 4), slice(4, 6))]
    _same(sum(_loss(name, part, settings, items) for part in parts), _loss(name, batch, settings), batch)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", POLICY_LOSSES)
def test_on_policy_gradient_is_that_of_reinforce(name: str, batch: _Batch) -> None:
    """At pi = old every one of these losses is a plain policy gradient: nothing is clipped."""
    batch = batch._replace(old=batch.log_probs.detach())
    terms, clipped = policy_token_losses(
        name, batch.log_probs, batch.old, batch.advantages, batch.mask, PolicySettings()
    )
    gradient = _gradient((terms * loss_weights(name, batch.mask, PolicySettings(), StepItems(6, 22))).sum(), batch)
    assert not clipped.any()
    direction = -batch.advantages.unsqueeze(1) * batch.mask
    norm = {
        "token": 22.0, "completion": 6 * batch.mask.sum(-1, keepdim=True).clamp(min=1), "length": 6.0,
    }[POLICY_LOSSES[name].norm]  # fmt: skip
    if POLICY_LOSSES[name].ratio == "product":  # the whole completion is one action: no division by its length
        norm = 6.0
    torch.testing.assert_close(gradient, direction / norm, rtol=0, atol=1e-12)


def test_norm_can_be_chosen_apart_from_the_loss(batch: _Batch) -> None:
    ours = _loss("grpo", batch, _settings(loss_norm="token"))
    _same(ours, _loss("dapo", batch, _settings()), batch)


def test_clipped_tokens_are_those_without_gradient(batch: _Batch) -> None:
    settings = _settings(delta=1.3)
    terms, clipped = policy_token_losses("grpo", batch.log_probs, batch.old, batch.advantages, batch.mask, settings)
    (gradient,) = torch.autograd.grad(terms.sum(), batch.log_probs)
    assert torch.equal(clipped, (gradient == 0) & batch.mask.bool())
    assert clipped.any() and not clipped.all()


def test_padding_may_hold_anything(batch: _Batch) -> None:
    holes = ~batch.mask.bool()
    for name in POLICY_LOSSES:
        dirty = batch._replace(
            log_probs=batch.log_probs.detach().masked_fill(holes, -math.inf).requires_grad_(),
            old=batch.old.masked_fill(holes, math.nan), ref=batch.ref.masked_fill(holes, math.inf),
        )  # fmt: skip
        settings = _settings(beta=0.0 if POLICY_LOSSES[name].kl_in_reward else 0.05)
        clean, spoilt = _loss(name, batch, settings), _loss(name, dirty, settings)
        torch.testing.assert_close(spoilt, clean)
        torch.testing.assert_close(_gradient(spoilt, dirty), _gradient(clean, batch))


def test_kl_estimates_over_a_whole_vocabulary() -> None:
    """The mean of k1 and k3 under pi is the KL exactly; the gradient of E[k2], samples held, is the gradient of KL."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(50, generator=generator, dtype=torch.float64, requires_grad=True)
    ref = torch.randn(50, generator=generator, dtype=torch.float64).log_softmax(-1)
    log_pi = logits.log_softmax(-1)
    pi = log_pi.detach().exp()
    exact = torch.distributions.kl_divergence(
        torch.distributions.Categorical(logits=logits), torch.distributions.Categorical(logits=ref)
    )
    for kind in ("k1", "k3"):
        assert (pi * kl_estimate(log_pi, ref, kind)).sum().item() == pytest.approx(exact.item(), abs=1e-12)
    (expected,) = torch.autograd.grad(exact, logits, retain_graph=True)
    (ours,) = torch.autograd.grad((pi * kl_estimate(log_pi, ref, "k2")).sum(), logits)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-12)
    assert (kl_estimate(log_pi, ref, "k3") >= 0).all()


@pytest.mark.parametrize("clip", [None, 0.2])
def test_value_loss_is_a_loop(clip: float | None, batch: _Batch) -> None:
    values, old, returns = batch.log_probs, batch.old, batch.ref
    terms = []
    for i in range(6):
        for t in range(6):
            if batch.mask[i, t]:
                error = (values[i, t] - returns[i, t]) ** 2
                if clip is not None:
                    near = old[i, t] + (values[i, t] - old[i, t]).clamp(-clip, clip)
                    error = torch.maximum(error, (near - returns[i, t]) ** 2)
                terms.append(0.5 * error)
    _same(value_loss(values, old, returns, batch.mask, clip).sum(), torch.stack(terms).sum(), batch)
