# SPDX-License-Identifier: Apache-2.0
"""Each loss of pairs and judged answers is TRL's, or its paper's closed form: value and gradient in float64."""

from __future__ import annotations

import types
from contextlib import nullcontext
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from llamafactory.plugins import LOSSES, resolve
from llamafactory.train.losses.feedback import bradley_terry, kl_estimate, kto
from llamafactory.train.losses.preference import Pairs, Settings, bco_term, completion_sums, sft_term

_TRL = {"nca": "nca_pair", **{name: name for name in (
    "sigmoid", "hinge", "ipo", "robust", "exo_pair", "aot", "apo_zero", "apo_down", "sppo_hard", "discopop",
)}}  # fmt: skip
_SMOOTHED = ("robust", "exo_pair", "aot")


class _Recorder(dict):
    """Takes the metrics that TRL collects on its way."""

    def __missing__(self, key: str) -> list[Any]:
        return []


class _Logits:
    """Stands in for TRL's model: hands out given token log-probabilities."""

    training = True

    def __init__(self, log_probs: Tensor) -> None:
        self.log_probs = log_probs

    def __call__(self, **_: Any) -> Any:
        blank = torch.zeros_like(self.log_probs)
        return types.SimpleNamespace(
            log_probs=self.log_probs, entropy=blank, mean_logits=blank, is_top1=blank.bool(), log_sum_sq_probs=blank
        )


def _trl_dpo(policy: Tensor, reference: Tensor, mask: Tensor, name: str, **options: Any) -> Tensor:
    """Run TRL's own ``DPOTrainer._compute_loss`` on token log-probabilities [2P, L]."""
    from trl import DPOTrainer

    same = types.SimpleNamespace(
        device="cpu", gather=lambda x: x, gather_for_metrics=lambda x: x, unwrap_model=lambda x: x, autocast=nullcontext
    )
    stub: Any = types.SimpleNamespace(
        model=_Logits(policy * mask), ref_model=_Logits(reference), accelerator=same, precompute_ref_logps=False,
        aux_loss_enabled=False, ld_alpha=None, f_divergence_type="reverse_kl", loss_types=[name], loss_weights=[1.0],
        beta=0.3, label_smoothing=0.0, use_weighting=False, _metrics={"train": _Recorder()}, _total_train_tokens=0,
        _tp_size=1, args=types.SimpleNamespace(gradient_checkpointing_kwargs=None, discopop_tau=0.05),
    )  # fmt: skip
    stub.__dict__.update(options)
    first = torch.zeros(len(mask), 1, dtype=torch.long)
    inputs = {
        "input_ids": torch.zeros(len(mask), mask.shape[1] + 1, dtype=torch.long),
        "attention_mask": torch.ones(len(mask), mask.shape[1] + 1),
        "completion_mask": torch.cat([first, mask], 1),
    }
    return DPOTrainer._compute_loss(stub, stub.model, inputs, False)


@pytest.fixture
def tokens(monkeypatch: pytest.MonkeyPatch) -> tuple[Tensor, Tensor, Tensor]:
    """Token log-probabilities of 5 pairs [10, 7] (chosen first, as TRL lays them), their reference, and a mask."""
    import trl.trainer.dpo_trainer as module

    monkeypatch.setattr(module, "disable_gradient_checkpointing", lambda *_: nullcontext())
    monkeypatch.setattr(module, "is_peft_model", lambda _: False)
    generator = torch.Generator().manual_seed(1)
    mask = (torch.arange(7) < torch.randint(1, 8, (10, 1), generator=generator)).long()
    policy, reference = (-2 * torch.rand(10, 7, generator=generator, dtype=torch.float64) * mask for _ in range(2))
    return policy.requires_grad_(), reference, mask


def _pairs(policy: Tensor, reference: Tensor, mask: Tensor, ld_alpha: float | None = None) -> Pairs:
    """Through ``completion_sums``, from tokens laid end to end: chosen 0, rejected 0, chosen 1, …"""
    order = torch.arange(10).view(2, 5).T.flatten()
    kept = mask[order].bool()
    answers = torch.arange(10).repeat_interleave(kept.sum(1))
    sums, counts = completion_sums(policy[order][kept], answers, 10, ld_alpha)
    refs, _ = completion_sums(reference[order][kept], answers, 10, ld_alpha)
    return Pairs(sums[::2], sums[1::2], refs[::2], refs[1::2], counts[::2], counts[1::2])


def _same(ours: Tensor, theirs: Tensor, leaf: Tensor) -> None:
    gradients = [torch.autograd.grad(loss, leaf, retain_graph=True)[0] for loss in (ours, theirs)]
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-6)
    assert gradients[0].abs().max() > 1e-4


CASES = [(name, 0.0) for name in _TRL if name != "exo_pair"] + [(name, 0.2) for name in _SMOOTHED]


@pytest.mark.parametrize(("name", "smoothing"), CASES)
def test_equal_to_trl(tokens: Any, name: str, smoothing: float) -> None:
    ours = resolve("losses", name)(_pairs(*tokens), Settings(0.3, smoothing)).mean()
    _same(ours, _trl_dpo(*tokens, _TRL[name], label_smoothing=smoothing), tokens[0])


def test_length_desensitized_sums_are_trl(tokens: Any) -> None:
    ours = resolve("losses", "sigmoid")(_pairs(*tokens, ld_alpha=0.4), Settings(0.3)).mean()
    _same(ours, _trl_dpo(*tokens, "sigmoid", ld_alpha=0.4), tokens[0])


def test_bco_without_shift_is_trl(tokens: Any) -> None:
    _same(bco_term(_pairs(*tokens), Settings(0.3), 0.0).mean(), _trl_dpo(*tokens, "bco_pair"), tokens[0])


def test_simpo_is_trl(tokens: Any) -> None:
    from trl.experimental.cpo import CPOTrainer

    pairs = _pairs(*tokens)
    stub: Any = types.SimpleNamespace(
        alpha=0.0, accelerator=types.SimpleNamespace(device="cpu"), loss_type="simpo", simpo_gamma=0.7, beta=2.0,
        label_smoothing=0.0,
    )  # fmt: skip
    average = pairs.chosen / pairs.chosen_tokens, pairs.rejected / pairs.rejected_tokens
    theirs = CPOTrainer.cpo_loss(stub, *average)[0].mean()
    _same(resolve("losses", "simpo")(pairs, Settings(2.0, gamma=0.7)).mean(), theirs, tokens[0])


def _closed_orpo(p: Pairs, beta: float) -> Tensor:
    chosen, rejected = (p.chosen / p.chosen_tokens).exp(), (p.rejected / p.rejected_tokens).exp()
    ratio = (chosen / (1 - chosen)) / (rejected / (1 - rejected))
    return -chosen.log() - beta * (ratio / (1 + ratio)).log()


def _closed_kto_pair(p: Pairs, beta: float) -> Tensor:
    wins, losses = p.chosen - p.ref_chosen, p.rejected - p.ref_rejected
    kl_wins, kl_losses = max(0.0, wins.mean().item()), max(0.0, losses.mean().item())
    wanted = 1 / (1 + torch.exp(beta * (wins - kl_losses)))
    return (wanted + 1 / (1 + torch.exp(beta * (kl_wins - losses)))) / 2


def _closed_cdpo(p: Pairs, beta: float) -> Tensor:
    likely = 1 / (1 + torch.exp(-beta * (p.chosen - p.ref_chosen - p.rejected + p.ref_rejected)))
    return -0.8 * likely.log() - 0.2 * (1 - likely).log()


CLOSED = {"orpo": _closed_orpo, "kto_pair": _closed_kto_pair, "sigmoid": _closed_cdpo}


@pytest.mark.parametrize("name", CLOSED)
def test_equal_to_the_closed_form(tokens: Any, name: str) -> None:
    pairs = _pairs(*tokens)
    _same(resolve("losses", name)(pairs, Settings(0.3, 0.2)).mean(), CLOSED[name](pairs, 0.3).mean(), tokens[0])


def test_every_loss_of_pairs_is_compared() -> None:
    assert set(LOSSES) == set(_TRL) | set(CLOSED) | {"simpo"}


def test_orpo_is_finite_for_hopeless_and_certain_answers() -> None:
    value = torch.tensor([-1e-9, -700.0], dtype=torch.float64, requires_grad=True)
    one = torch.ones(2, dtype=torch.float64)
    zero = torch.zeros(2, dtype=torch.float64)
    loss = resolve("losses", "orpo")(Pairs(value, value.flip(0), zero, zero, one, one), Settings(0.1)).sum()
    loss.backward()
    assert loss.isfinite() and value.grad is not None and value.grad.isfinite().all()


def test_terms_added_to_a_loss(tokens: Any) -> None:
    pairs, shift = _pairs(*tokens), 0.37
    wins, losses = 0.3 * pairs.chosen_ratio, 0.3 * pairs.rejected_ratio
    closed = torch.log1p(torch.exp(shift - wins)) + torch.log1p(torch.exp(losses - shift))
    _same(bco_term(pairs, Settings(0.3), shift).sum(), closed.sum(), tokens[0])
    rows, mask = tokens[0][:5], tokens[2][:5]
    _same(sft_term(pairs).sum(), -((rows * mask).sum(1) / mask.sum(1)).sum(), tokens[0])


def test_kto_is_its_equation() -> None:
    generator = torch.Generator().manual_seed(2)
    ratio = torch.randn(8, generator=generator, dtype=torch.float64, requires_grad=True)
    mismatched = torch.randn(8, generator=generator, dtype=torch.float64)
    desirable = torch.arange(8) % 3 == 0
    for sign in (1.0, -1.0):
        point = max(0.0, (sign * mismatched.abs()).mean().item())
        kl = kl_estimate(sign * mismatched.abs().sum(), 8)
        closed = [
            1.3 / (1 + torch.exp(0.5 * (r - point))) if good else 0.6 / (1 + torch.exp(0.5 * (point - r)))
            for r, good in zip(ratio, desirable.tolist(), strict=True)
        ]
        _same(kto(ratio, desirable, kl, 0.5, 1.3, 0.6).sum(), torch.stack(closed).sum(), ratio)


def test_bradley_terry_is_the_expression_of_trl() -> None:
    generator = torch.Generator().manual_seed(3)
    scores = torch.randn(2, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    margin = torch.rand(6, generator=generator, dtype=torch.float64)
    theirs = -F.logsigmoid(scores[0] - scores[1] - margin).mean() + 0.01 * torch.mean((scores[0] + scores[1]) ** 2)
    _same(bradley_terry(scores[0], scores[1], margin, 0.01).mean(), theirs, scores)
    plain = torch.log1p(torch.exp(scores[1] - scores[0])).mean()
    _same(bradley_terry(scores[0], scores[1]).mean(), plain, scores)
