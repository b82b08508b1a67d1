# SPDX-License-Identifier: Apache-2.0
"""The chunked head against torch's own cross-entropy, and its gradients against finite differences."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from llamafactory.train.losses.cross_entropy import cross_entropy
from llamafactory.train.losses.linear_log_probs import LogitTransform, linear_log_probs

TRANSFORMS = {
    "plain": LogitTransform(),
    "scaled": LogitTransform(scale=0.25),
    "capped": LogitTransform(softcap=3.0),
    "both": LogitTransform(scale=2.0, softcap=5.0),
    "warm": LogitTransform(scale=2.0, softcap=5.0, temperature=0.6),
    "warm and plain": LogitTransform(temperature=1.7),
}


def _inputs(
    dtype: torch.dtype, rows: int = 7, width: int = 5, vocabulary: int = 11
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(rows, width, generator=generator, dtype=torch.float64)
    weight = torch.randn(vocabulary, width, generator=generator, dtype=torch.float64)
    bias = torch.randn(vocabulary, generator=generator, dtype=torch.float64)
    targets = torch.randint(vocabulary, (rows,), generator=generator)
    return hidden.to(dtype), weight.to(dtype), bias.to(dtype), targets


def _reference(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, t: LogitTransform, eps: float
) -> Tensor:
    logits = (hidden @ weight.T + (0 if bias is None else bias)) * t.scale
    if t.softcap is not None:
        logits = t.softcap * torch.tanh(logits / t.softcap)
    return -F.cross_entropy(logits / t.temperature, targets, reduction="none", label_smoothing=eps)


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("head_trained", [False, True])
def test_equals_cross_entropy(name: str, smoothing: float, head_trained: bool) -> None:
    hidden, weight, bias, targets = _inputs(torch.float64)
    leaves = [hidden.requires_grad_(), weight.requires_grad_(head_trained), bias.requires_grad_(head_trained)]
    upstream = torch.arange(1.0, 8.0, dtype=torch.float64)
    wanted = _reference(hidden, weight, bias, targets, TRANSFORMS[name], smoothing)
    (wanted * upstream).sum().backward()
    expected = [None if leaf.grad is None else leaf.grad.clone() for leaf in leaves]
    for leaf in leaves:
        leaf.grad = None
    got = linear_log_probs(hidden, weight, bias, targets, 3, TRANSFORMS[name], smoothing).log_probs
    (got * upstream).sum().backward()
    torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)
    for leaf, gradient in zip(leaves, expected, strict=True):
        if gradient is None:
            assert leaf.grad is None
        else:
            torch.testing.assert_close(leaf.grad, gradient, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("head_trained", [False, True])
def test_gradcheck(head_trained: bool) -> None:
    hidden, weight, bias, targets = _inputs(torch.float64, rows=5)
    hidden.requires_grad_()
    weight.requires_grad_(head_trained)
    bias.requires_grad_(head_trained)

    def scored(h: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return linear_log_probs(h, w, b, targets, 2, TRANSFORMS["both"], 0.05).log_probs

    assert torch.autograd.gradcheck(scored, (hidden, weight, bias))


@pytest.mark.parametrize("chunk", [1, 3, 7, 100])
def test_chunk_size_changes_nothing(chunk: int) -> None:
    hidden, weight, _, targets = _inputs(torch.float32)
    scored = linear_log_probs(hidden, weight, None, targets, chunk, entropy=True, accuracy=True)
    logits = hidden @ weight.T
    entropy = torch.distributions.Categorical(logits=logits).entropy()
    torch.testing.assert_close(scored.entropy, entropy, rtol=1e-5, atol=1e-6)
    assert torch.equal(scored.correct, logits.argmax(-1) == targets)


def test_bfloat16_gradient_of_confident_tokens_is_not_noise() -> None:
    """The target's entry of the gradient is 1 - p: taken as a difference of rounded numbers it would be 0 or noise."""
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(64, 32, generator=generator)
    targets = torch.arange(16)
    hidden = (weight[targets] * 0.4).bfloat16().requires_grad_()
    exact = hidden.detach().float().requires_grad_()
    linear_log_probs(hidden, weight.bfloat16(), None, targets, 8).log_probs.sum().backward()
    F.cross_entropy(exact @ weight.bfloat16().float().T, targets, reduction="sum").neg().backward()
    cosine = F.cosine_similarity(hidden.grad.float(), exact.grad, dim=-1)
    assert cosine.min() > 0.999


def test_autocast_sets_the_type_of_the_products() -> None:
    hidden, weight, _, targets = _inputs(torch.float32)
    weight.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        scored = linear_log_probs(hidden, weight, None, targets, 3).log_probs
    scored.sum().backward()
    low = linear_log_probs(hidden.bfloat16(), weight.detach().bfloat16(), None, targets, 3).log_probs
    assert scored.dtype == weight.grad.dtype == torch.float32
    assert torch.equal(scored, low)


def test_no_rows() -> None:
    hidden, weight, _, _ = _inputs(torch.float32)
    empty = hidden[:0].requires_grad_()
    scored = linear_log_probs(empty, weight, None, torch.zeros(0, dtype=torch.long), 4).log_probs
    scored.sum().backward()
    assert scored.shape == (0,) and empty.grad.shape == (0, 5)


def test_no_logits_are_kept_for_backward() -> None:
    """What the graph holds must not grow with rows x vocabulary."""
    hidden = torch.randn(64, 8, requires_grad=True)
    held: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: held.append(t.numel()) or t, lambda t: t):
        linear_log_probs(hidden, torch.randn(500, 8), None, torch.randint(500, (64,)), 16).log_probs.sum()
    assert max(held) == hidden.numel()


def test_cross_entropy_shares_add_up() -> None:
    log_probs, weights = -torch.rand(10), torch.tensor([1.0, 0.5] * 5)
    whole = cross_entropy(log_probs, weights, 10)
    parts = cross_entropy(log_probs[:3], weights[:3], 10) + cross_entropy(log_probs[3:], weights[3:], 10)
    torch.testing.assert_close(parts, whole)
    torch.testing.assert_close(whole, -(log_probs * weights).sum() / 10)
