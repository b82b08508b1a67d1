# SPDX-License-Identifier: Apache-2.0
"""What ranks tell each other about a rollout: sums, and records as JSON."""

from __future__ import annotations

import json
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def gather_records(records: list[dict[str, Any]], device: torch.device) -> list[dict[str, Any]]:
    """Return the records of all ranks, in the order of ranks; all ranks call this together.

    Numbers keep every digit, for JSON writes floats so that they are read back the same.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return records
    data = torch.tensor(list(json.dumps(records).encode()), dtype=torch.uint8, device=device)
    sizes = [torch.zeros(1, dtype=torch.int64, device=device) for _ in range(dist.get_world_size())]
    dist.all_gather(sizes, torch.tensor([len(data)], device=device))
    longest = max(int(size) for size in sizes)
    parts = [data.new_zeros(longest) for _ in sizes]
    dist.all_gather(parts, torch.nn.functional.pad(data, (0, longest - len(data))))
    texts = [bytes(part[: int(size)].tolist()) for part, size in zip(parts, sizes, strict=True)]
    return [record for text in texts for record in json.loads(text)]


def sum_over_ranks(values: Tensor) -> Tensor:
    """Return the sum of a tensor over ranks; all ranks call this together."""
    if dist.is_initialized():
        values = values.clone()
        dist.all_reduce(values)
    return values
