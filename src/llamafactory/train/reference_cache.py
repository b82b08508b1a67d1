# SPDX-License-Identifier: Apache-2.0
"""Log-probabilities of a frozen reference: computed once for all rows, kept on disk by a hash of rows and weights."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..extras.files import write_atomic
from ..extras.logging import get_logger

if TYPE_CHECKING:
    from datasets import Dataset

logger = get_logger(__name__)


def weights_hash(model: Any) -> str:
    """Hash of a model's configuration and frozen weights: all of a reference, the base of a model with an adapter."""
    hasher = hashlib.blake2b(str(model.config.to_diff_dict()).encode(), digest_size=16)
    parameters: list[nn.Parameter] = [weight for weight in model.parameters() if not weight.requires_grad]
    for weight in parameters:
        hasher.update(weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return hasher.hexdigest()


def with_reference(
    rows: Dataset, score: Callable[[list[dict[str, Any]]], Tensor], key: str, batch_size: int
) -> Dataset:
    """Return the rows with the column ``reference``: the log-probabilities of their two answers.

    Args:
        rows: Features with two sequences each.
        score: Rows -> [B, 2].
        key: What the values depend on beside the rows.
        batch_size: Rows scored at once.
    """
    import datasets.config
    from safetensors.torch import load_file, save

    name = hashlib.blake2b(f"{_rows_hash(rows)}-{key}".encode(), digest_size=16).hexdigest()
    path = Path(datasets.config.HF_DATASETS_CACHE, "llamafactory", f"reference-{name}.safetensors")
    if _everywhere(path.is_file()):
        values = load_file(path)["log_probs"]
        logger.info_rank0("log-probabilities of the reference taken from %s", path)
    else:
        values = _compute(rows, score, batch_size)
        if not dist.is_initialized() or dist.get_rank() == 0:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, save({"log_probs": values}))
    return rows.add_column("reference", values.tolist())


def _compute(rows: Dataset, score: Callable[[list[dict[str, Any]]], Tensor], batch_size: int) -> Tensor:
    """Score every row once, each rank its share."""
    rank, ranks = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    parts, mine = [], range(rank, len(rows), ranks)
    for start in range(0, len(mine), batch_size):
        numbers = mine[start : start + batch_size]
        parts.append((list(numbers), score([rows[number] for number in numbers]).float()))
    device = parts[0][1].device if parts else torch.device("cuda" if torch.cuda.is_available() else "cpu")
    values = torch.zeros(len(rows), 2, device=device)
    for places, found in parts:
        values[places] = found
    if dist.is_initialized():
        dist.all_reduce(values)
    return values.cpu()


def _everywhere(here: bool) -> bool:
    """Whether all ranks see the file; they must take the same way."""
    if not dist.is_initialized():
        return here
    seen: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(seen, here)
    return all(seen)


def _rows_hash(rows: Dataset) -> str:
    hasher = hashlib.blake2b(digest_size=16)
    for table in rows.with_format("arrow").iter(1000):
        for name in ("input_ids", "labels", "seq_lens"):
            column = table.column(name).combine_chunks()
            hasher.update(np.asarray(column.flatten()).tobytes())
            hasher.update(np.asarray(column.value_lengths()).tobytes())
    return hasher.hexdigest()
