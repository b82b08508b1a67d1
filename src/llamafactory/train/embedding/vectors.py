# SPDX-License-Identifier: Apache-2.0
"""Vectors through any wrapper, and the texts of all processes."""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ...model.vectors import Pooling, pool
from ...model.wrapping import beneath_adapters
from ..losses.contrastive import Texts

_INPUTS = ("input_ids", "attention_mask", "token_type_ids", "position_ids", "cu_seqlens", "max_seqlen")


def attach_vectors(model: nn.Module, pooling: Pooling) -> nn.Module:
    """Make ``model(**batch, vectors=True)`` return vectors [S, d] fp32 of a padded or padding-free batch.

    Args:
        model: The bare model, or a PeftModel around it. The same object is returned.
        pooling: Which states make the vector.
    """
    bare = beneath_adapters(model)
    forward = bare.forward
    options = {} if getattr(bare.config, "is_decoder", True) is False else {"use_cache": False}

    @functools.wraps(forward)
    def forward_or_pool(*args: Any, vectors: bool = False, **kwargs: Any) -> Any:
        if not vectors:
            return forward(*args, **kwargs)
        inputs = {name: kwargs[name] for name in _INPUTS if kwargs.get(name) is not None}
        return pool(forward(**inputs, **options, return_dict=True).last_hidden_state, inputs, pooling)

    bare.forward = forward_or_pool
    return model


def texts_of(vectors: Tensor, batches: list[dict[str, Any]]) -> Texts:
    """Return the texts of some batches in order, rows numbered through; those that only fill have owner -1."""
    owners, start = [], 0
    for batch in batches:
        own = batch["owners"].to(vectors.device)
        owners.append(torch.where(own < 0, own, own + start))
        start += int(batch["owners"].max()) + 1
    keys, grades = (torch.cat([one[name].to(vectors.device) for one in batches]) for name in ("keys", "grades"))
    return Texts(vectors, keys, torch.cat(owners), grades)


def of_all_ranks(texts: Texts) -> tuple[Texts, slice]:
    """Return the texts of all processes, rows numbered through, and where this one's stand; all call this together."""
    if not dist.is_initialized():
        return texts, slice(0, len(texts.keys))
    sizes = torch.tensor([len(texts.keys), int(texts.owners.max()) + 1], device=texts.keys.device)
    counts = [torch.zeros_like(sizes) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, sizes)
    texts_each, rows_each = torch.stack(counts).T.tolist()
    parts = [_gather(column.contiguous(), texts_each) for column in texts]
    shifts = [sum(rows_each[:rank]) for rank in range(len(rows_each))]
    parts[2] = [torch.where(own < 0, own, own + shift) for own, shift in zip(parts[2], shifts, strict=True)]
    start = sum(texts_each[: dist.get_rank()])
    return Texts(*map(torch.cat, parts)), slice(start, start + len(texts.keys))


def _gather(column: Tensor, sizes: list[int]) -> list[Tensor]:
    padded = column.new_zeros(max(sizes), *column.shape[1:])
    padded[: len(column)] = column
    parts = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(parts, padded)
    return [part[:size] for part, size in zip(parts, sizes, strict=True)]


def only_real(texts: Texts) -> tuple[Texts, Tensor]:
    """Return the texts whose rows are more than fillers, rows numbered anew, and [S] bool which they are."""
    real = texts.owners >= 0
    owners = torch.unique(texts.owners[real], return_inverse=True)[1]
    return Texts(texts.vectors[real], texts.keys[real], owners, texts.grades[real]), real
