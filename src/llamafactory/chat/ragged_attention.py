# SPDX-License-Identifier: Apache-2.0
"""The attention of many requests in one forward pass, registered with transformers as ``ragged``.

A forward pass either reads prompts laid end to end (:class:`Prompts`) or makes one token for each sequence
(:class:`Step`). Both compute every request as if it were alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ..model.attention import isolated_attention
from .kv_pool import Part

RAGGED = "ragged"


@dataclass(frozen=True)
class Prompts:
    """Prompts in one row: prompt ``i`` is tokens ``bounds[i]`` to ``bounds[i + 1]``."""

    bounds: list[int]

    def attend(self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, options: dict[str, Any]) -> Tensor:
        """``[1, heads, T, size]`` → ``[1, T, heads, size]``."""
        pieces = []
        for start, end in pairwise(self.bounds):
            q, k, v = (tensor[:, :, start:end] for tensor in (query, key, value))
            window = options["sliding_window"]
            if _plain(options) and (window is None or window >= end - start):
                # The very call of model.generate, so that a prompt is read with the same rounding.
                pieces.append(sdpa_attention_forward(module, q, k, v, None, scaling=options["scaling"])[0])
            else:
                pieces.append(isolated_attention(module, q, k, v, None, **options)[0])
        return torch.cat(pieces, dim=1)


@dataclass(frozen=True)
class Step:
    """One new token for each row."""

    parts: list[Part]

    def attend(self, module: Any, query: Tensor, key: Tensor, value: Tensor, options: dict[str, Any]) -> Tensor:
        """``[rows, heads, 1, size]`` → ``[rows, 1, heads, size]``; keys and values are stored on the way."""
        if len(self.parts) == 1:  # nothing to cut: a sequence that grows alone pays for every small operation
            return _attend(self.parts[0], module, query, key, value, options)
        pieces = [
            _attend(part, module, query[part.rows], key[part.rows], value[part.rows], options) for part in self.parts
        ]
        return torch.cat(pieces)


def _attend(part: Part, module: Any, query: Tensor, key: Tensor, value: Tensor, options: dict[str, Any]) -> Tensor:
    keys, values = part.store(module.layer_idx, key, value)
    window = options["sliding_window"]
    if _plain(options):
        mask = part.mask(window, query.dtype, query.device)
        return sdpa_attention_forward(module, query, keys, values, mask, scaling=options["scaling"], is_causal=False)[0]
    mask = part.mask(window, torch.bool, query.device)
    return isolated_attention(module, query, keys, values, mask, is_causal=False, **options)[0]


def register() -> None:
    """Make ``ragged`` known to transformers; without a mask function, so that models make no mask. Safe to repeat."""
    ALL_ATTENTION_FUNCTIONS.register(RAGGED, ragged_attention)


def ragged_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    ragged: Prompts | Step,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention in the form transformers calls.

    Args:
        module: The attention layer.
        query: ``[B, heads, T, size]``.
        key: ``[B, kv heads, T, size]``.
        value: Like ``key``.
        attention_mask: Not used.
        ragged: Which tokens belong together; comes through the keyword arguments of the model's forward.
        scaling: Factor on the scores.
        sliding_window: How many tokens back a token sees, itself included.
        softcap: Soft cap of the scores (Gemma 2).
        s_aux: Attention sinks (GPT-OSS), ``[heads]``.

    Returns:
        ``([B, T, heads, size], None)``.
    """
    options = {"scaling": scaling, "sliding_window": sliding_window, "softcap": softcap, "s_aux": s_aux}
    return ragged.attend(module, query.to(value.dtype), key.to(value.dtype), value, options), None


def _plain(options: dict[str, Any]) -> bool:
    return options["softcap"] is None and options["s_aux"] is None
