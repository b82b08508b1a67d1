# SPDX-License-Identifier: Apache-2.0
"""Scores of whole sequences: what plain transformers' sequence classification gives, without padding.

``attach_scores(model)`` gives a ``…ForSequenceClassification`` model the call ``model(**batch, scores=True)``, through
any wrapper (DDP, PEFT, autocast).
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn

from ..model.wrapping import beneath_adapters

_INPUTS = ("input_ids", "attention_mask", "token_type_ids", "position_ids", "cu_seqlens", "max_seqlen", "shared_prefix")


def attach_scores(model: nn.Module) -> nn.Module:
    """Make ``model(**batch, scores=True)`` return scores [S, K] fp32 of a padded or padding-free batch.

    Args:
        model: Sequence classification, or a PeftModel around it. The same object is returned.
    """
    classifier = beneath_adapters(model)
    forward = classifier.forward

    @functools.wraps(forward)
    def forward_or_score(*args: Any, scores: bool = False, **kwargs: Any) -> Any:
        if not scores:
            return forward(*args, **kwargs)
        inputs = {name: kwargs[name] for name in _INPUTS if kwargs.get(name) is not None}
        if not hasattr(classifier, "score"):  # an encoder, with a head of its own way
            return forward(**inputs).logits.float()
        decoder = getattr(classifier, classifier.base_model_prefix)
        hidden = decoder(**inputs, use_cache=False, return_dict=True).last_hidden_state.flatten(0, 1)
        ids, rows = inputs["input_ids"], inputs.get("shared_prefix", {}).get("rows")
        ends = last_tokens(
            ids if rows is None else ids[:, rows], inputs.get("cu_seqlens"), classifier.config.pad_token_id
        )
        if rows is not None:
            ends = rows[ends]
        return classifier.score(hidden.index_select(0, ends)).float()

    classifier.forward = forward_or_score
    return model


def last_tokens(input_ids: Tensor, cu_seqlens: Tensor | None, pad: int) -> Tensor:
    """Return [S] the place, in the flattened batch, of each sequence's last token that is not ``pad``.

    That is where sequence classification of transformers reads the score, also when ``pad`` ends a turn.

    Args:
        input_ids: [B, L] padded, or [1, T] with ``cu_seqlens``.
        cu_seqlens: [S + 1] bounds of the sequences, None when each row is one.
        pad: ``pad_token_id`` of the model's config.
    """
    place = torch.arange(input_ids.numel(), device=input_ids.device)
    if cu_seqlens is None:
        sequence, count = place // input_ids.shape[1], len(input_ids)
        first = sequence * input_ids.shape[1]
    else:
        sequence, count = torch.bucketize(place, cu_seqlens[1:], right=True), len(cu_seqlens) - 1
        first = cu_seqlens.long()[sequence]
    marked = torch.where(input_ids.flatten() != pad, place, first)
    return torch.zeros(count, dtype=place.dtype, device=place.device).scatter_reduce(0, sequence, marked, "amax")
