# SPDX-License-Identifier: Apache-2.0
"""Log-probabilities of a frozen reference: computed once for all rows, kept on disk by a hash of rows and weights."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from tqdm import tqdm

from ...extras.errors import ConfigError, in_one_line
from ...extras.files import write_atomic
from ...extras.logging import get_logger, is_rank0

if TYPE_CHECKING:
    from datasets import Dataset

logger = get_logger(__name__)


def weights_hash(model: Any) -> str:
    """Hash of a model's configuration and frozen weights: all of a reference, the base of a model with an adapter."""
    hasher = hashlib.blake2b(str(model.config.to_diff_dict()).encode(), digest_size=16)
    parameters: list[nn.Parameter] = [weight for weight in model.parameters() if not weight.requires_grad]
    for weight in parameters:
        part = weight.to_local() if isinstance(weight, DTensor) else weight
        hasher.update(part.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    if any(isinstance(weight, DTensor) for weight in parameters):  # each rank knows its parts
        parts: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(parts, hasher.hexdigest())
        return hashlib.blake2b("".join(parts).encode(), digest_size=16).hexdigest()
    return hasher.hexdigest()


def with_reference(
    rows: Dataset, batches: Iterable[dict[str, Any]], score: Callable[[dict[str, Any]], Tensor], key: str, quiet: bool
) -> Dataset:
    """Return the rows with the column ``reference``: the log-probabilities of their two completions.

    Args:
        rows: Features with two sequences each.
        batches: All of them, as this rank will see them when it trains: in half precision a row's value depends, by
            rounding, on the batch it stands in, and the policy's first margins shall be 0. ``rows`` of a batch are the
            numbers of its rows.
        score: Batch -> [B, 2].
        key: What the values depend on beside the rows.
        quiet: Show no progress bar.
    """
    import datasets.config
    from safetensors.torch import save

    name = hashlib.blake2b(f"{_rows_hash(rows)}-{key}".encode(), digest_size=16).hexdigest()
    path = Path(datasets.config.HF_DATASETS_CACHE, "llamafactory", f"reference-{name}.safetensors")
    known = _read(path, len(rows))
    if _everywhere(known is not None):
        assert known is not None
        values = known
        logger.info_rank0("log-probabilities of the reference taken from %s", path)
    else:
        values = _compute(
            len(rows), tqdm(batches, desc="reference", unit=" batches", disable=quiet or not is_rank0()), score
        )
        if is_rank0():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, save({"log_probs": values}))
    return rows.add_column("reference", values.tolist())


def _read(path: Path, count: int) -> Tensor | None:
    """Return what an earlier run computed; a damaged file is as good as none."""
    from safetensors.torch import load_file

    if not path.is_file():
        return None
    try:
        with in_one_line(str(path)):
            values = load_file(path)["log_probs"]
    except ConfigError as error:
        logger.warning_rank0("damaged, and made again: %s", error)
        return None
    return values if values.shape == (count, 2) else None


def _compute(count: int, batches: Iterable[dict[str, Any]], score: Callable[[dict[str, Any]], Tensor]) -> Tensor:
    """Return [count, 2] on the CPU, each rank having scored its batches."""
    values = torch.zeros(count, 2)
    for batch in batches:
        numbers = batch.pop("rows")
        values[numbers] = score(batch)[: len(numbers)].float().cpu()  # of a filler nothing is taken
    if dist.is_initialized():
        device = "cuda" if dist.get_backend() == "nccl" else "cpu"
        values = values.to(device)
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
