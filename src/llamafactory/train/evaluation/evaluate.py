# SPDX-License-Identifier: Apache-2.0
"""Exact evaluation: the mean over all items of a set, every row once over all ranks, in flat memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ..metrics.means import means

ITEMS, _ROWS = "items", "rows"

Batch = dict[str, Any]
Derived = Callable[[dict[str, float]], dict[str, float]]


def evaluate(
    sets: dict[str, Iterable[Batch]],
    batch_sums: Callable[[Batch], dict[str, Tensor]],
    derived: Derived,
    device: torch.device,
    prefix: str,
) -> dict[str, float]:
    """Return ``<prefix>_<name>_loss``, and the stage's other means, of each set, and of all together if several.

    The loss is the sum over all items (trained tokens, pairs, …) divided by their number: what training minimises, not
    a mean of batch means.

    Args:
        sets: This rank's batches by name; ``""`` is the one unnamed set.
        batch_sums: Batch -> its sums over items, and their number as ``items``.
        derived: Means -> the means with what is computed from them.
        device: Where sums are kept.
        prefix: ``eval``.
    """
    start = time.perf_counter()
    metrics: dict[str, float] = {}
    whole: dict[str, float] = {}
    for name, batches in sets.items():
        sums = _set_sums(batches, batch_sums, device)
        whole = {key: whole.get(key, 0.0) + value for key, value in sums.items()}
        if name:
            metrics |= _means(sums, derived, f"{prefix}_{name}")
    if len(sets) > 1 or "" in sets:
        metrics |= _means(whole, derived, prefix)
    return metrics | speed(whole[_ROWS], start, prefix)


def speed(rows: float, start: float, prefix: str) -> dict[str, float]:
    """Return how long the evaluation of ``rows`` rows took that began at ``start``, as transformers names it."""
    seconds = time.perf_counter() - start
    return {
        f"{prefix}_runtime": round(seconds, 4),
        f"{prefix}_samples_per_second": round(rows / max(seconds, 1e-9), 3),
    }


@torch.no_grad()
def _set_sums(
    batches: Iterable[Batch], batch_sums: Callable[[Batch], dict[str, Tensor]], device: torch.device
) -> dict[str, float]:
    """Return the sums of one set over all ranks, with the number of items and of rows."""
    totals: dict[str, Tensor] = {}
    for batch in batches:
        rows = len(batch.pop("rows"))
        for key, value in {**batch_sums(batch), _ROWS: rows}.items():
            value = torch.as_tensor(value, dtype=torch.float64, device=device)
            totals[key] = totals[key] + value if key in totals else value
    names = sorted(totals)
    values = torch.stack([totals[name] for name in names])
    if dist.is_initialized():
        dist.all_reduce(values)
    return dict(zip(names, values.tolist(), strict=True))


def _means(sums: dict[str, float], derived: Derived, prefix: str) -> dict[str, float]:
    found = means({name: value for name, value in sums.items() if name not in (ITEMS, _ROWS)}, sums[ITEMS])
    return {f"{prefix}_{name}": value for name, value in derived(found).items()}
