# SPDX-License-Identifier: Apache-2.0
"""Log-probabilities of given tokens from hidden states, without ever holding the logits of the whole batch.

With z = softcap(scale * (h W^T + b)) and target distribution q = (1 - eps) * onehot(t) + eps / V:

    log p(t | h)  =  q . z - logsumexp(z)            d log p / dz  =  q - softmax(z)

so the gradient needs the logits only for as long as a chunk lasts. When the head is frozen the gradient with respect to
``h`` is finished in the forward pass ([N, d] is kept, nothing is computed twice); when the head is trained, backward
computes each chunk again. (Idea: Wijmans et al. 2024, "Cut Your Losses in Large-Vocabulary Language Models".)

An anchor, another distribution r over the same vocabulary, is compared with p in the same chunks (``divergence.py``).
Of two vocabularies that differ in length (the same tokens, padded differently) the common rows are compared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ...model.kernels import log_prob
from .divergence import among, divergence, divergence_gradient

_VOCABULARY = 8192  # rows of a head's gradient that are added at once


@dataclass(frozen=True)
class LogitTransform:
    """Between head and softmax: the model's own ``cap * tanh(scale * logits / cap)``, over a temperature."""

    scale: float = 1.0
    softcap: float | None = None
    temperature: float = 1.0

    def apply(self, logits: Tensor) -> Tensor:
        """Transform ``logits`` [..., V] in place."""
        if self.scale != 1.0:
            logits.mul_(self.scale)
        if self.softcap is not None:
            logits.div_(self.softcap).tanh_().mul_(self.softcap)
        if self.temperature != 1.0:
            logits.div_(self.temperature)
        return logits

    def slope(self, transformed: Tensor | None) -> Tensor | float:
        """Return d transformed / d logits for each of ``transformed`` [..., V], which only a softcap reads."""
        factor = self.scale / self.temperature
        if self.softcap is None or transformed is None:
            return factor
        return (1 - (transformed * (self.temperature / self.softcap)).square_()).mul_(factor)


@dataclass(frozen=True)
class Anchor:
    """A frozen distribution for each token, kept as what its logits are made of.

    Attributes:
        states: [N, ...] hidden states, or logits.
        logits_of: [c, ...] of them -> logits [c, V'].
        beta: Which divergence from it is computed, see ``divergence.py``; 0 = KL(r || p).
    """

    states: Tensor
    logits_of: Callable[[Tensor], Tensor]
    beta: float = 0.0

    def logits(self, part: slice | Tensor) -> Tensor:
        """Return the logits [c, V'] of some of the tokens."""
        return self.logits_of(self.states[part])

    def beside(self, part: slice, log_p: Tensor) -> tuple[Tensor, Tensor]:
        """Return log r and log p of some of the tokens, [c, v] both, for the v tokens that both vocabularies have.

        Args:
            part: Which tokens.
            log_p: [c, V] of the model.
        """
        with torch.no_grad():
            logits = self.logits(part).to(log_p.dtype)
            size = min(logits.shape[-1], log_p.shape[-1])
            log_r = torch.log_softmax(logits[..., :size], -1)
        return log_r, among(log_p, size)


@dataclass(frozen=True)
class MixedAnchor(Anchor):
    """Tokens whose distributions come from several models.

    Attributes:
        states: [N, 2] which of ``anchors`` a token has, and its number there.
        anchors: One a model.
    """

    anchors: Sequence[Anchor] = ()

    def logits(self, part: slice | Tensor) -> Tensor:
        owner, place = self.states[part].unbind(-1)
        some = [anchor.logits(place[owner == number]) for number, anchor in enumerate(self.anchors)]
        size = min(logits.shape[-1] for logits in some)
        logits = some[0].new_empty(len(owner), size)
        for number, found in enumerate(some):
            logits[owner == number] = found[:, :size].to(logits.dtype)
        return logits


class LogProbs(NamedTuple):
    """Per token [N], None unless asked for; only ``log_probs`` and ``divergence`` have a gradient."""

    log_probs: Tensor
    entropy: Tensor | None
    correct: Tensor | None
    divergence: Tensor | None = None
    top_entropy: Tensor | None = None


def linear_log_probs(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    chunk: int,
    transform: LogitTransform | None = None,
    smoothing: float = 0.0,
    entropy: bool = False,
    accuracy: bool = False,
    top: int = 0,
    anchor: Anchor | None = None,
    kernel: bool = True,
) -> LogProbs:
    """Score ``targets`` under a linear head, ``chunk`` rows at a time.

    Args:
        hidden: [N, d] hidden states; their dtype is the dtype of the products (under autocast, autocast's).
        weight: [V, d] head.
        bias: [V] or None.
        targets: [N] token ids in [0, V).
        chunk: Rows whose logits are alive at once; memory is about ``chunk * V * 10`` bytes.
        transform: Scale and softcap of the logits.
        smoothing: Share of probability spread evenly over the vocabulary (label smoothing).
        entropy: Also return -sum p log p (nats).
        accuracy: Also return whether the target is the most probable token (bool).
        top: Also return the entropy (nats) of this many most probable tokens among themselves; 0 = do not.
        anchor: Also return the divergence of the head's distribution from it.
        kernel: Whether ``model/kernels/log_prob.py`` may compute what it can.

    Returns:
        Log-probabilities in fp32 (fp64 for fp64 input), differentiable in hidden, weight and bias.
    """
    hidden, kind = as_computed(hidden), hidden.device.type
    options = _Options(chunk, transform or LogitTransform(), smoothing, entropy, accuracy, top, anchor, kernel)
    with torch.autocast(kind, enabled=False):
        log_probs, *found = _LinearLogProbs.apply(hidden, weight, bias, targets, options)
    wanted = (entropy, accuracy, anchor is not None, top > 0)
    return LogProbs(log_probs, *(one if asked else None for one, asked in zip(found, wanted, strict=True)))


def as_computed(hidden: Tensor) -> Tensor:
    """Return ``hidden`` in the dtype of the products."""
    kind = hidden.device.type
    return hidden.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else hidden


def top_entropy(log_p: Tensor, count: int) -> Tensor:
    """Return the entropy [c], in nats, of the ``count`` most probable tokens of ``log_p`` [c, V] among themselves."""
    log_q = log_p.topk(min(count, log_p.shape[-1]), -1).values.log_softmax(-1)
    return -(log_q.exp() * log_q).sum(-1)


@dataclass(frozen=True)
class _Options:
    chunk: int
    transform: LogitTransform
    smoothing: float
    entropy: bool
    accuracy: bool
    top: int
    anchor: Anchor | None
    kernel: bool

    @property
    def takes_kernel(self) -> bool:
        """Whether the log-probability is that of the head as it is, nothing has to do with others, and it is wanted."""
        return self.kernel and not (self.smoothing or self.top or self.anchor) and self.transform == LogitTransform()


class _LinearLogProbs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, options: _Options
    ) -> tuple[Tensor, ...]:
        rows, wide, anchor = hidden.shape[0], torch.promote_types(hidden.dtype, torch.float32), options.anchor
        head_trained = ctx.needs_input_grad[1] or ctx.needs_input_grad[2]
        finish_gradient = ctx.needs_input_grad[0] and not head_trained
        log_probs = hidden.new_empty(rows, dtype=wide)
        entropies = hidden.new_empty(rows if options.entropy else 0, dtype=wide)
        correct = torch.empty(rows if options.accuracy else 0, dtype=torch.bool, device=hidden.device)
        distances = hidden.new_empty(rows if anchor else 0, dtype=wide)
        tops = hidden.new_empty(rows if options.top else 0, dtype=wide)
        gradient = torch.empty_like(hidden) if finish_gradient else None
        pull = torch.empty_like(hidden) if finish_gradient and anchor else None
        head, shift = weight.to(hidden.dtype), None if bias is None else bias.to(hidden.dtype)
        for start in range(0, rows, options.chunk):
            part = slice(start, start + options.chunk)
            logits = F.linear(hidden[part], head, shift)
            scored = None
            if options.takes_kernel:
                also = (entropies[part] if options.entropy else None, correct[part] if options.accuracy else None)
                scored = log_prob.score(logits, targets[part], finish_gradient, None, *also)
            if scored is not None:
                log_probs[part] = scored
                if gradient is not None:
                    torch.mm(logits, head, out=gradient[part])
                continue
            values, log_p = _log_softmax(logits.to(wide), options.transform)
            log_probs[part] = _expected(log_p, targets[part], options.smoothing)
            if options.accuracy:
                correct[part] = log_p.argmax(-1) == targets[part]
            if options.entropy:
                entropies[part] = -(log_p.exp() * log_p).sum(-1)
            if options.top:
                tops[part] = top_entropy(log_p, options.top)
            if anchor:
                log_r, log_q = anchor.beside(part, log_p)
                distances[part] = divergence(log_r, log_q, anchor.beta)
                if pull is not None:
                    away = _anchor_gradient(values, log_q, log_r, options)
                    torch.mm(away.to(hidden.dtype), head[: away.shape[-1]], out=pull[part])
            if gradient is not None:
                torch.mm(
                    _logit_gradient(values, log_p, targets[part], options).to(hidden.dtype), head, out=gradient[part]
                )
            del logits, values, log_p  # before the next chunk has its own
        if head_trained:
            ctx.save_for_backward(hidden, weight, bias, targets)
        else:
            ctx.save_for_backward(gradient, pull)
        ctx.options, ctx.head_trained = options, head_trained
        ctx.mark_non_differentiable(entropies, correct, tops)
        return log_probs, entropies, correct, distances, tops

    @staticmethod
    def backward(
        ctx: Any, grad: Tensor, _: Tensor, __: Tensor, grad_distances: Tensor, ___: Tensor
    ) -> tuple[Tensor | None, ...]:
        if not ctx.head_trained:
            gradient, pull = ctx.saved_tensors
            flow = gradient * grad.unsqueeze(-1)
            if pull is not None:
                flow = flow + pull * grad_distances.unsqueeze(-1)
            return flow.to(gradient.dtype), None, None, None, None
        hidden, weight, bias, targets = ctx.saved_tensors
        options: _Options = ctx.options
        wide = torch.promote_types(hidden.dtype, torch.float32)
        head, shift = weight.to(hidden.dtype), None if bias is None else bias.to(hidden.dtype)
        need_hidden, need_weight, need_bias = ctx.needs_input_grad[:3]
        grad_hidden = torch.empty_like(hidden) if need_hidden else None
        # Sums over chunks are kept in fp32: with bf16 weights many small chunks would else be lost to rounding.
        grad_weight = torch.zeros_like(weight, dtype=wide) if need_weight else None
        grad_bias = torch.zeros_like(bias, dtype=wide) if need_bias else None
        for start in range(0, hidden.shape[0], options.chunk):
            part = slice(start, start + options.chunk)
            logits = F.linear(hidden[part], head, shift)
            if options.takes_kernel and log_prob.score(logits, targets[part], True, grad[part]) is not None:
                flow = logits
            else:
                values, log_p = _log_softmax(logits.to(wide), options.transform)
                away = None
                if options.anchor:
                    log_r, log_q = options.anchor.beside(part, log_p)
                    away = _anchor_gradient(values, log_q, log_r, options).mul_(grad_distances[part].unsqueeze(-1))
                flow = _logit_gradient(values, log_p, targets[part], options).mul_(grad[part].unsqueeze(-1))
                if away is not None:
                    flow[:, : away.shape[-1]] += away
                del values, log_p
            if grad_bias is not None:
                grad_bias += flow.sum(0, dtype=wide)
            flow = flow.to(hidden.dtype)
            if grad_hidden is not None:
                torch.mm(flow, head, out=grad_hidden[part])
            if grad_weight is not None:
                _add_product(grad_weight, flow, hidden[part])
            del logits, flow
        return (
            grad_hidden,
            None if grad_weight is None else grad_weight.to(weight.dtype),
            None if grad_bias is None else grad_bias.to(bias.dtype),
            None,
            None,
        )


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """``total [V, d] += left^T right`` of [c, V] and [c, d], some of V at a time.

    A sum of another type is formed from a copy in its own type: of the whole that would be as large as the gradient.
    """
    for start in range(0, total.shape[0], _VOCABULARY):
        part = slice(start, start + _VOCABULARY)
        total[part] += left[:, part].T @ right


def _log_softmax(logits: Tensor, transform: LogitTransform) -> tuple[Tensor | None, Tensor]:
    """Return transformed logits [c, V], if :meth:`LogitTransform.slope` reads them, and their log-probabilities."""
    values = transform.apply(logits)
    return None if transform.softcap is None else values, torch.log_softmax(values, -1)


def _expected(log_p: Tensor, targets: Tensor, smoothing: float) -> Tensor:
    """Return q . log p [c] of ``log_p`` [c, V]; log_softmax commutes with q because q sums to one."""
    picked = log_p.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    return picked if smoothing == 0.0 else (1 - smoothing) * picked + smoothing * log_p.mean(-1)


def _logit_gradient(values: Tensor | None, log_p: Tensor, targets: Tensor, options: _Options) -> Tensor:
    """Return d log p / d (raw logits) [c, V]; ``log_p`` is overwritten.

    The target's own entry is 1 - p, formed in fp32 before any rounding: for confident tokens it is tiny, and the
    difference of two rounded numbers would be noise.
    """
    gradient = log_p.exp_().neg_()
    if options.smoothing:
        gradient.add_(options.smoothing / gradient.shape[-1])
    gradient.scatter_add_(-1, targets.unsqueeze(-1), gradient.new_full((len(targets), 1), 1 - options.smoothing))
    return _through(options.transform, values, gradient)


def _anchor_gradient(values: Tensor | None, log_q: Tensor, log_r: Tensor, options: _Options) -> Tensor:
    """Return d divergence / d (raw logits) [c, v]; ``log_r`` is overwritten."""
    assert options.anchor is not None
    away = divergence_gradient(log_r, log_q, options.anchor.beta)
    return _through(options.transform, None if values is None else values[:, : away.shape[-1]], away)


def _through(transform: LogitTransform, values: Tensor | None, gradient: Tensor) -> Tensor:
    slope = transform.slope(values)
    return gradient if isinstance(slope, float) and slope == 1.0 else gradient.mul_(slope)
