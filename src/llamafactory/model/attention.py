# SPDX-License-Identifier: Apache-2.0
"""Attention that keeps the sequences of a packed batch apart, registered with transformers as ``isolated``.

A padding-free batch is one row ``[1, T]`` of ``S`` sequences laid end to end; ``cu_seqlens [S+1]`` holds their bounds.
Each sequence is computed by its own kernel call (by one varlen kernel on CUDA; short ones on a CPU as rows of a
batch), never through a mask, so a change in one sequence leaves the output of another bit-equal, and no time goes into
the empty blocks of a mask.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import context_parallel, shifted_attention, varlen_attention
from .context_parallel import Context
from .kernels import causal_attention, native
from .shared_prefix import unshare
from .wrapping import beneath_adapters

ISOLATED = "isolated"
ISOLATING = frozenset({ISOLATED, "flash_attention_2", "flash_attention_3", "flash_attention_4"})
_VARLEN_DTYPES = (torch.float16, torch.bfloat16)
_VARLEN_MAX_HEAD_DIM = 256


def register() -> None:
    """Make ``attn_implementation="isolated"`` known to transformers. Safe to call again."""
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register(ISOLATED, isolated_attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register(ISOLATED, isolated_mask)


def register_shifted(group: int) -> str:
    """Make the attention of LongLoRA known to transformers (:mod:`.shifted_attention`) and return its name."""
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    name = f"{ISOLATED}_shifted_{group}"
    ALL_ATTENTION_FUNCTIONS.register(name, partial(isolated_attention, group=group))
    ALL_MASK_ATTENTION_FUNCTIONS.register(name, isolated_mask)
    return name


def is_isolating(model: nn.Module) -> bool:
    """Whether the model's attention keeps packed sequences apart, so that padding-free batches are allowed."""
    return implementation(model) in ISOLATING or _is_ours(implementation(model))


def _is_ours(name: str) -> bool:
    return name.startswith(ISOLATED)  # shifted ones too


def can_share_prefixes(model: nn.Module) -> bool:
    """Whether sequences of a batch may have their first tokens in common (:mod:`.shared_prefix`).

    A mixture of experts that is trained to share its load out counts tokens, so there each must be there as often as in
    the data.
    """
    return _is_ours(implementation(model)) and not getattr(_config(model), "output_router_logits", False)


def implementation(model: nn.Module) -> str:
    """Name of the attention implementation in use, looking through PEFT and other wrappers."""
    return str(_config(model)._attn_implementation)


@contextmanager
def generation_attention(model: nn.Module) -> Iterator[None]:
    """Inside the block the model uses ordinary attention: KV cache and left padding, for ``model.generate``."""
    core = _transformers_model(model)
    before = implementation(model)
    if not _is_ours(before):
        yield
        return
    core.set_attn_implementation(ordinary_implementation(type(core), _config(core)))
    try:
        yield
    finally:
        core.set_attn_implementation(before)


def ordinary_implementation(model_class: type, config: Any) -> str:
    """``sdpa`` where it computes what the model means, else ``eager`` (SDPA has no soft cap)."""
    softcap = getattr(config, "attn_logit_softcapping", None)
    return "sdpa" if getattr(model_class, "_supports_sdpa", False) and softcap is None else "eager"


def isolated_mask(
    *, q_length: int, kv_length: int, attention_mask: Tensor | None = None, **options: Any
) -> Tensor | None:
    """No mask for whole sequences without padding; a padded or cached batch gets SDPA's own boolean mask."""
    from transformers.masking_utils import sdpa_mask

    if attention_mask is None and q_length == kv_length:
        return None
    return sdpa_mask(q_length=q_length, kv_length=kv_length, attention_mask=attention_mask, **options)


def isolated_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    cu_seqlens: Tensor | None = None,
    max_seqlen: int | None = None,
    shared_prefix: dict[str, Tensor] | None = None,
    media_blocks: Tensor | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    is_causal: bool | None = None,
    group: int | None = None,
    context: Context | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Causal attention inside each sequence, in the form transformers calls.

    Args:
        module: The attention layer.
        query: ``[B, H, T, D]``.
        key: ``[B, KV, T, D]``, ``KV`` divides ``H``.
        value: Like ``key``.
        attention_mask: ``None`` for whole sequences; else ``[B, 1, Tq, Tk]``, true where attention is allowed.
        scaling: Factor on the scores; default ``D ** -0.5``.
        dropout: Probability, already 0 outside training; a configuration may say null for 0.
        cu_seqlens: Bounds ``[S+1]`` of the sequences in the one row; ``None``: every row is one sequence.
        max_seqlen: Longest sequence.
        shared_prefix: Sequences have tokens of the row in common: which ones stand at the places that ``cu_seqlens``
            bounds (see :mod:`.shared_prefix`).
        media_blocks: Number ``[T]`` of the medium that each token of the row is of, -1 for text: a medium sees all of
            itself, within the window.
        sliding_window: How many tokens back a token sees, itself included.
        softcap: ``softcap * tanh(scores / softcap)`` (Gemma 2).
        s_aux: One extra logit per head that takes probability and gives no value (GPT-OSS), ``[H]``.
        is_causal: Overrides ``module.is_causal``.
        group: Tokens of a group of LongLoRA's attention, for a module in training; ``None``: full attention.
        context: The row is shared by processes, and ``T`` tokens of it are here; ``cu_seqlens`` and ``shared_prefix``
            speak of all of it.

    Returns:
        ``([B, T, H, D], None)``.
    """
    # Under autocast rotary embeddings may leave q and k in float32 while v is half: the kernels want one type.
    query, key = query.to(value.dtype), key.to(value.dtype)
    if context is not None:
        heads = query.shape[1]
        key, value = (context_parallel.repeat_keys(x, heads, context) for x in (key, value))
        query, key, value = (context_parallel.to_heads(x, context) for x in (query, key, value))
        s_aux = None if s_aux is None else s_aux.chunk(context.size)[context.rank]
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    options = _Options(
        *(scaling or query.shape[-1] ** -0.5, dropout or 0.0, causal, sliding_window, softcap, s_aux),
        fast=native.wanted(module),
    )
    attend = partial(_shifted, group=group) if group and causal and module.training else _isolated
    if cu_seqlens is None:
        assert attend is _isolated, "shifted attention is for batches without padding"
        return _attend(query, key, value, attention_mask, options).transpose(1, 2), None
    assert query.shape[0] == 1, "cu_seqlens describes one packed row"
    if media_blocks is not None and causal:
        return _isolated_with_media(query, key, value, cu_seqlens, media_blocks, options), None
    if shared_prefix is not None:
        query, key, value = (unshare(x, shared_prefix) for x in (query, key, value))
    out = attend(query, key, value, cu_seqlens, max_seqlen, options)
    if shared_prefix is not None:
        out = out.index_select(1, shared_prefix["places"])
    return (out if context is None else context_parallel.to_tokens(out, context)), None


def _isolated(q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Any, longest: int | None, options: _Options) -> Tensor:
    """Attention inside each sequence of one row: ``[1, H, T, D]`` to ``[1, T, H, D]``."""
    if longest is not None and _varlen_fits(q, options):
        return _varlen(q, k, v, cu_seqlens, int(longest), options)
    bounds = cu_seqlens.tolist() if isinstance(cu_seqlens, Tensor) else cu_seqlens
    if options.fast and causal_attention.applies(q) and options.plain and options.causal:
        where = varlen_attention.layout(tuple(bounds), causal_attention.GROUPED)
        if where is not None:
            groups = zip(*(varlen_attention.spread(x, where) for x in (q, k, v)), strict=True)
            return varlen_attention.gather([_attend(q, k, v, None, options) for q, k, v in groups], where)
    pieces = [_attend(q[:, :, a:b], k[:, :, a:b], v[:, :, a:b], None, options) for a, b in pairwise(bounds) if b > a]
    return torch.cat(pieces, dim=2).transpose(1, 2)


def _isolated_with_media(q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Any, blocks: Tensor, options: _Options) -> Tensor:
    """As :func:`_isolated`, but the tokens of a medium see each other, later ones too."""
    bounds = cu_seqlens.tolist() if isinstance(cu_seqlens, Tensor) else cu_seqlens
    pieces = []
    for start, end in pairwise(bounds):
        block = blocks[start:end]
        mask = _window_mask(end - start, None, True, q.device) | ((block[:, None] == block) & (block >= 0))
        if options.window is not None:
            places = torch.arange(end - start, device=q.device)
            mask = mask & (places > places[:, None] - options.window)
        query, key, value = (x[:, :, start:end] for x in (q, k, v))
        pieces.append(_attend(query, key, value, mask[None, None], options))
    return torch.cat(pieces, dim=2).transpose(1, 2)


def _shifted(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Any, longest: int | None, options: _Options, group: int
) -> Tensor:
    """As :func:`_isolated`, each half of the heads inside its own groups of a sequence."""
    bounds = tuple(cu_seqlens.tolist() if isinstance(cu_seqlens, Tensor) else cu_seqlens)
    parts = []
    for first, (q_half, k_half, v_half, sinks) in zip(
        (group, group // 2), shifted_attention.halves(q, k, v, options.sinks), strict=True
    ):
        inside = shifted_attention.group_bounds(bounds, group, first)
        parts.append(_isolated(q_half, k_half, v_half, inside, longest and min(longest, group), options.but(sinks)))
    return torch.cat(parts, dim=2)


class _Options:
    """What the attention of one layer computes, beyond q, k and v."""

    __slots__ = ("causal", "dropout", "fast", "scale", "sinks", "softcap", "window")

    def __init__(
        self,
        scale: float,
        dropout: float,
        causal: bool,
        window: int | None,
        softcap: float | None,
        sinks: Tensor | None,
        fast: bool,
    ) -> None:
        self.scale, self.dropout, self.causal = scale, dropout, causal
        self.window, self.softcap, self.sinks, self.fast = window, softcap, sinks, fast

    def but(self, sinks: Tensor | None) -> _Options:
        """The same with the sinks of other heads."""
        return _Options(self.scale, self.dropout, self.causal, self.window, self.softcap, sinks, self.fast)

    @property
    def plain(self) -> bool:
        """Nothing beyond softmax(q k^T) v."""
        return self.softcap is None and self.sinks is None and self.window is None and not self.dropout


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, options: _Options) -> Tensor:
    """Attention of whole rows ``[B, H, T, D]``; a mask given by transformers already holds causality and window."""
    length, keys = q.shape[2], k.shape[2]
    windowed = options.window is not None and options.window < length
    if mask is None and windowed:
        mask = _window_mask(length, options.window, options.causal, q.device)
    if options.softcap is not None or options.sinks is not None:
        if mask is None and options.causal and length > 1:
            mask = _window_mask(length, None, True, q.device)
        return _eager(q, k, v, mask, options)
    causal = mask is None and options.causal and length == keys and length > 1
    if causal and options.fast and not options.dropout and causal_attention.pays_off(q):
        return causal_attention.causal_attention(q, k, v, options.scale)
    return F.scaled_dot_product_attention(
        q,
        k,
        v,
        attn_mask=mask,
        dropout_p=options.dropout,
        is_causal=causal,
        scale=options.scale,
        enable_gqa=q.shape[1] != k.shape[1],
    )


def _window_mask(length: int, window: int | None, causal: bool, device: torch.device) -> Tensor:
    """True where query i sees key j: ``j <= i`` if causal, and ``|i - j| < window``. ``[length, length]``."""
    distance = torch.arange(length, device=device)[:, None] - torch.arange(length, device=device)[None]
    allowed = distance >= 0 if causal else torch.ones_like(distance, dtype=torch.bool)
    return allowed if window is None else allowed & (distance.abs() < window)


def _eager(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, options: _Options) -> Tensor:
    """Soft cap and sinks, which SDPA does not have; probabilities in float32 like transformers' eager path."""
    groups = q.shape[1] // k.shape[1]
    k, v = (x.repeat_interleave(groups, dim=1) for x in (k, v))
    scores = q @ k.transpose(2, 3) * options.scale
    if options.softcap is not None:
        scores = torch.tanh(scores / options.softcap) * options.softcap
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    if options.sinks is not None:
        sinks = options.sinks.to(scores.dtype).view(1, -1, 1, 1).expand(*scores.shape[:3], 1)
        scores = torch.cat([scores, sinks], dim=-1)
    weights = scores.softmax(dim=-1, dtype=torch.float32).to(v.dtype)[..., : k.shape[2]]
    return F.dropout(weights, options.dropout) @ v


def _varlen_fits(q: Tensor, options: _Options) -> bool:
    """Whether the flash kernel takes it: Ampere or later, half precision, head size a multiple of 8 up to 256."""
    if not q.is_cuda or q.dtype not in _VARLEN_DTYPES or q.shape[-1] % 8 or q.shape[-1] > _VARLEN_MAX_HEAD_DIM:
        return False
    plain = options.softcap is None and options.sinks is None and not options.dropout
    return plain and (options.causal or options.window is None) and torch.cuda.get_device_capability(q.device) >= (8, 0)


def _varlen(q: Tensor, k: Tensor, v: Tensor, bounds: Tensor, longest: int, options: _Options) -> Tensor:
    """All sequences in one CUDA kernel call."""
    from torch.nn.attention.varlen import varlen_attn

    q, k, v = (x[0].transpose(0, 1) for x in (q, k, v))  # [T, heads, D]
    bounds = bounds.to(q.device, torch.int32)
    # The kernel's left window counts the tokens before the present one; -1 is no limit.
    left = -1 if options.window is None else options.window - 1
    window = (left, 0 if options.causal else -1)
    gqa = q.shape[1] != k.shape[1]
    return varlen_attn(
        q, k, v, bounds, bounds, longest, longest, scale=options.scale, window_size=window, enable_gqa=gqa
    )[None]


def _transformers_model(model: nn.Module) -> Any:
    """The transformers model inside PEFT, DDP or an accelerate wrapper."""
    while hasattr(model, "module") and isinstance(model.module, nn.Module):
        model = model.module
    return beneath_adapters(model)


def _config(model: nn.Module) -> Any:
    return _transformers_model(model).config.get_text_config()
