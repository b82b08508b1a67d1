# SPDX-License-Identifier: Apache-2.0
"""Per-token log-probabilities of a batch, at trained positions only: what every loss is a function of.

``attach(model)`` gives a causal language model one more way to be called, ``model(**batch, score=True)``. The call
passes through any wrapper (DDP, PEFT, autocast), runs the decoder, picks the hidden states whose next token is trained
and scores those by chunks, so that logits of prompts and padding are never computed and no [T, V] tensor exists.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..extras.errors import ConfigError
from ..extras.heap import give_back_gaps
from ..model import context_parallel
from ..model.attention import ISOLATED, implementation
from ..model.context_parallel import Context
from ..model.kernels import native
from ..model.media_inputs import packed_inputs, rows_alike
from ..model.sharding.shard import is_sharded
from ..model.towers import nothing_of_idle_parts
from ..model.wrapping import beneath_adapters
from .losses.divergence import divergence
from .losses.linear_log_probs import Anchor, LogitTransform, LogProbs, as_computed, linear_log_probs, top_entropy


class TokenScores(NamedTuple):
    """N trained tokens of one batch, in batch order.

    Attributes:
        log_probs: [N] fp32 log-probability of each target, with gradient.
        targets: [N] token ids.
        weights: [N] fp32.
        positions: [N] index of each target in the flattened [B * L] labels.
        entropy: [N] nats, or None.
        correct: [N] bool, the target was the most probable token; or None.
        values: [N] fp32, what the model's ``value_head`` makes of the state before each target; or None without one.
        aux_loss: Router balance loss of a mixture-of-experts model times its coefficient, a tuner's penalty on its own
            weights (``causal_lm.penalty()``), their sum, or None.
        divergence: [N] of the model from the anchor at each place, in nats, with gradient; or None.
        top_entropy: [N] nats, of the most probable tokens among themselves; or None.
    """

    log_probs: Tensor
    targets: Tensor
    weights: Tensor
    positions: Tensor
    entropy: Tensor | None = None
    correct: Tensor | None = None
    values: Tensor | None = None
    aux_loss: Tensor | None = None
    divergence: Tensor | None = None
    top_entropy: Tensor | None = None


def trained_positions(labels: Tensor) -> Tensor:
    """Return [N] indices into ``labels.flatten()`` of the trained tokens; a row's first token has nothing before it.

    On the CPU this costs nothing; on a GPU it waits for the device, so callers do it before the batch is moved.
    """
    trained = labels.ne(-100)
    trained[:, 0] = False
    return trained.flatten().nonzero().squeeze(-1)


_ROWS_ALIKE = (
    "per_device_train_batch_size: rows of a {} model with more and fewer images are computed one after the other, "
    "which processes that hold parts of it cannot do; set it to 1"
)


def attach(model: nn.Module, transform: LogitTransform | None = None) -> nn.Module:
    """Make ``model(**batch, score=True)`` return :class:`TokenScores`; other calls are unchanged.

    Args:
        model: A causal language model of transformers, or a PeftModel around one. The same object is returned.
        transform: What the model does to its logits; None = it is found by trying.

    ``batch`` holds the decoder's inputs and ``labels`` [B, L] (unshifted, -100 = not trained). Optional: ``weights``
    [B, L], ``positions`` (:func:`trained_positions` of the labels), ``smoothing``, ``entropy``, ``accuracy``,
    ``temperature`` (log-probabilities of sampling at it), ``top`` (how many tokens ``top_entropy`` is of), ``anchor``
    (an :class:`Anchor` of the same tokens; ``as_anchor=True`` returns that of this model instead of scores). A module
    ``value_head`` (d -> 1) on the language model gives ``values``. With ``shared_prefix`` (see
    ``data/collators/completions.py``) the inputs are shorter than the labels.
    """
    causal_lm = beneath_adapters(model)
    if getattr(causal_lm.forward, "scores_tokens", False):
        return model
    forward = causal_lm.forward
    transform = transform or _find_transform(causal_lm, forward)

    @functools.wraps(forward)
    def forward_or_score(*args: Any, score: bool = False, **kwargs: Any) -> Any:
        if not score:
            return forward(*args, **kwargs)
        assert not args, "score=True takes the batch by name"
        return _score(causal_lm, forward, transform, **kwargs)

    forward_or_score.scores_tokens = True  # type: ignore[attr-defined]
    causal_lm.forward = forward_or_score
    return model


def _score(
    causal_lm: Any,
    forward: Any,
    transform: LogitTransform | None,
    *,
    labels: Tensor,
    weights: Tensor | None = None,
    positions: Tensor | None = None,
    smoothing: float = 0.0,
    entropy: bool = False,
    accuracy: bool = False,
    temperature: float = 1.0,
    top: int = 0,
    anchor: Anchor | None = None,
    as_anchor: bool = False,
    **inputs: Any,
) -> TokenScores | Anchor:
    inputs = {name: value for name, value in inputs.items() if value is not None}
    context: Context | None = inputs.get("context")
    if context is not None:
        if implementation(causal_lm) != ISOLATED:
            raise ConfigError(f"{context_parallel.KEY}: a {causal_lm.config.model_type} model cannot share its rows")
        inputs = context_parallel.share(inputs, context)
        context = inputs["context"]
    balance = getattr(causal_lm.config.get_text_config(), "output_router_logits", False)
    wanted = {"output_router_logits": True} if balance else {}
    outputs = _decoder_outputs(causal_lm, forward, packed_inputs(causal_lm, inputs) | wanted)
    if positions is None:
        positions = trained_positions(labels)
    before = positions - 1
    if "shared_prefix" in inputs:
        before = inputs["shared_prefix"]["rows"].index_select(0, before)
    here = None if context is None else context_parallel.mine(before, context)
    states = outputs.last_hidden_state
    if is_sharded(causal_lm) and torch.is_grad_enabled():
        idle = nothing_of_idle_parts(causal_lm)
        states = states if idle is None else states + idle.to(states.dtype)
    hidden = states.flatten(0, 1).index_select(0, before if here is None else here[1])
    targets = labels.flatten().index_select(0, positions)
    asked = targets if here is None else targets.index_select(0, here[0])
    chosen = torch.ones_like(targets, dtype=torch.float32)
    if weights is not None:
        chosen = weights.flatten().index_select(0, positions).float()
    give_back_gaps()
    head = causal_lm.get_output_embeddings()
    is_plain = transform is not None and _is_plain(head)
    logits_of = functools.partial(_own_logits, causal_lm, forward, temperature=temperature)
    if as_anchor:
        plain = replace(transform, temperature=temperature) if transform is not None and is_plain else None
        trained = any(weight.requires_grad for weight in causal_lm.parameters())
        return _anchor_of(hidden, head, plain, logits_of, trained)
    if transform is not None and is_plain:
        chunk = chunk_rows(head.out_features, hidden.device, head.weight.requires_grad)
        transform = replace(transform, temperature=temperature)
        scored = linear_log_probs(
            *(hidden, head.weight, head.bias, asked, chunk, transform, smoothing, entropy, accuracy, top, anchor),
            kernel=native.wanted(causal_lm),
        )
    else:
        scored = _module_log_probs(logits_of, hidden, asked, smoothing, entropy, accuracy, top, anchor)
    aux_loss = _balance_loss(causal_lm, outputs, inputs.get("attention_mask")) if balance else None
    if hasattr(causal_lm, "penalty"):  # of a tuner, on its own weights
        aux_loss = causal_lm.penalty() if aux_loss is None else aux_loss + causal_lm.penalty()
    values = causal_lm.value_head(hidden.float()).squeeze(-1) if hasattr(causal_lm, "value_head") else None
    if here is not None and context is not None:
        scored = LogProbs(*(context_parallel.whole(one, here[0], len(targets), context) for one in scored))
    return TokenScores(
        *(scored.log_probs, targets, chosen, positions, scored.entropy, scored.correct, values, aux_loss),
        *(scored.divergence, scored.top_entropy),
    )


def _decoder_outputs(causal_lm: Any, forward: Any, inputs: dict[str, Any]) -> Any:
    """What the decoder makes of the inputs; a model that has none with its towers in it is run whole."""
    decoder = getattr(causal_lm, causal_lm.base_model_prefix, None)
    if decoder is not None:
        parts = rows_alike(causal_lm, inputs)
        outputs = [decoder(**part, use_cache=False, return_dict=True) for _, part in parts]
        if len(parts) > 1:
            if is_sharded(causal_lm):
                raise ConfigError(_ROWS_ALIKE.format(causal_lm.config.model_type))
            order = torch.cat([rows for rows, _ in parts]).argsort()
            outputs[0].last_hidden_state = torch.cat([one.last_hidden_state for one in outputs])[order]
        return outputs[0]
    kept: list[Any] = []
    hook = _inner_decoder(causal_lm).register_forward_hook(lambda module, args, output: kept.append(output))
    try:
        forward(**inputs, use_cache=False, return_dict=True, logits_to_keep=1)
    finally:
        hook.remove()
    return kept[0]


def _inner_decoder(causal_lm: Any) -> Any:
    """The decoder of a model whose language model is one with a head (Llama 4)."""
    language = causal_lm.get_decoder()
    return getattr(language, "model", language)


def _anchor_of(hidden: Tensor, head: Any, transform: LogitTransform | None, logits_of: Any, trained: bool) -> Anchor:
    """Keep hidden states where the logits are a function of them alone, else (an adapter on the head) the logits.

    Of a model that is ``trained``, an adapter is switched off only now.
    """
    if transform is None and trained:
        return Anchor(logits_of(hidden).detach(), lambda logits: logits)
    if transform is None:
        return Anchor(as_computed(hidden.detach()), logits_of)
    weight, bias = head.weight, head.bias

    def plain_logits(states: Tensor) -> Tensor:
        shift = None if bias is None else bias.to(states.dtype)
        wide = torch.promote_types(states.dtype, torch.float32)
        return transform.apply(F.linear(states, weight.to(states.dtype), shift).to(wide))

    return Anchor(as_computed(hidden.detach()), plain_logits)


def chunk_rows(vocabulary: int, device: torch.device, trained: bool = False) -> int:
    """Return how many rows of fp32 logits to hold at once: 32 MB on a CPU (measured best), 512 MB on an accelerator.

    On a CPU each chunk adds to the whole gradient of a head that is trained: of fewer, larger ones there.
    """
    budget = (128 << 20 if trained else 32 << 20) if device.type == "cpu" else 512 << 20
    return max(32, budget // (4 * vocabulary))


def _is_plain(head: nn.Module) -> bool:
    """A head whose weight may be read directly: nn.Linear itself, not a subclass or a wrapper, and without hooks."""
    return type(head) is nn.Linear and not head._forward_hooks and not head._forward_pre_hooks


def _module_log_probs(
    logits_of: Any,
    hidden: Tensor,
    targets: Tensor,
    smoothing: float,
    entropy: bool,
    accuracy: bool,
    top: int = 0,
    anchor: Anchor | None = None,
) -> LogProbs:
    """Score through the model's own head, whatever it is; each chunk is computed again in backward."""
    wide = torch.promote_types(hidden.dtype, torch.float32)

    def chunk_scores(start: int, part: Tensor, wanted: Tensor) -> tuple[Tensor, ...]:
        log_p = torch.log_softmax(logits_of(part).to(wide), -1)
        picked = log_p.gather(-1, wanted.unsqueeze(-1)).squeeze(-1)
        distance = picked
        if anchor:
            distance = divergence(*anchor.beside(slice(start, start + len(part)), log_p), anchor.beta)
        if smoothing:
            picked = (1 - smoothing) * picked + smoothing * log_p.mean(-1)
        with torch.no_grad():
            spread = -(log_p.exp() * log_p).sum(-1) if entropy else picked
            hit = log_p.argmax(-1) == wanted if accuracy else picked
            top_spread = top_entropy(log_p, top) if top else picked
        return picked, spread.detach(), hit.detach(), distance, top_spread.detach()

    size = 256
    parts = [
        checkpoint(chunk_scores, i * size, part, wanted, use_reentrant=False)
        for i, (part, wanted) in enumerate(zip(hidden.split(size), targets.split(size), strict=True))
    ]
    log_probs, *found = (torch.cat(column) for column in zip(*parts, strict=True))
    asked = (entropy, accuracy, anchor is not None, top > 0)
    return LogProbs(log_probs, *(one if wanted else None for one, wanted in zip(found, asked, strict=True)))


def _own_logits(causal_lm: Any, forward: Any, hidden: Tensor, temperature: float = 1.0) -> Tensor:
    """Return the logits [N, V] the model itself makes of ``hidden`` [N, d]: head, scale, softcap and all."""
    with _decoder_returns(causal_lm, hidden.unsqueeze(0)):
        return forward(inputs_embeds=hidden.unsqueeze(0)).logits.squeeze(0) / temperature


class _DecoderOutput:
    """Stands in for the decoder's output: the hidden states, and None for everything else."""

    def __init__(self, hidden: Tensor) -> None:
        self.last_hidden_state = hidden

    def __getitem__(self, index: int) -> Tensor | None:
        return self.last_hidden_state if index == 0 else None

    def __getattr__(self, name: str) -> None:
        return None


@contextmanager
def _decoder_returns(causal_lm: Any, hidden: Tensor) -> Iterator[None]:
    decoder = getattr(causal_lm, causal_lm.base_model_prefix, None) or _inner_decoder(causal_lm)
    kept = decoder.__dict__.get("forward")
    decoder.forward = lambda *_, **__: _DecoderOutput(hidden)
    try:
        yield
    finally:
        if kept is None:
            del decoder.forward
        else:
            decoder.forward = kept


# Where configs keep what lies between head and softmax. The same name is a factor in one family and a divisor in
# another, so both are tried against the model's own logits.
_SCALES = ("logit_scale", "logits_scaling", "lm_head_multiplier", "output_multiplier")
_SOFTCAPS = ("final_logit_softcapping", "softcap")


@torch.no_grad()
def _find_transform(causal_lm: Any, forward: Any) -> LogitTransform | None:
    """Return the transform that reproduces the model's own logits on two random rows, None when none does."""
    head = causal_lm.get_output_embeddings()
    if not isinstance(head, nn.Linear) or not _is_plain(head):
        return None
    config = causal_lm.config.get_text_config()
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(2, head.in_features, generator=generator).to(head.weight.device, head.weight.dtype)
    hidden *= 50 / head(hidden).abs().max()  # logits large enough that a softcap shows
    expected = _own_logits(causal_lm, forward, hidden).float()
    raw = head(hidden).float()
    scales = [1.0]
    for name in _SCALES:
        value = getattr(config, name, None) or getattr(causal_lm.config, name, None)
        scales += [float(value), 1 / float(value)] if isinstance(value, (int, float)) else []
    for softcap in (*(getattr(config, name, None) for name in _SOFTCAPS), None):
        for scale in scales:
            transform = LogitTransform(scale, softcap)
            if torch.allclose(transform.apply(raw.clone()), expected, rtol=2e-2, atol=0.2):
                return transform
    return None


def _balance_loss(causal_lm: Any, outputs: Any, attention_mask: Tensor | None) -> Tensor:
    """Return coefficient * load-balancing loss, by the function the model's own module uses."""
    modules = (sys.modules[base.__module__] for base in type(causal_lm).__mro__)  # of a sharded model not the first
    function = next(
        module.load_balancing_loss_func for module in modules if hasattr(module, "load_balancing_loss_func")
    )
    loss = function(outputs.router_logits, causal_lm.num_experts, causal_lm.num_experts_per_tok, attention_mask)
    return causal_lm.router_aux_loss_coef * loss
