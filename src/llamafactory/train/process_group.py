# SPDX-License-Identifier: Apache-2.0
"""What ranks do together: find each other after an elastic restart, agree on what they do."""

from __future__ import annotations

import os
from datetime import timedelta

import torch
import torch.distributed as dist

from ..extras.environment import rank_number


def rejoin(backend: str | None, timeout_seconds: int) -> None:
    """Join the process group of a restarted attempt; do nothing on the first one, which transformers joins by itself.

    torchrun keeps one store over all attempts, and gloo and NCCL would read in it where the killed ranks listened
    (torch 2.13, ``DynamicRendezvousHandler``); under a prefix for each attempt they see only the living.

    Args:
        backend: ``gloo``, ``nccl``, …; None = torch's choice by device.
        timeout_seconds: ``ddp_timeout``.
    """
    attempt = rank_number("TORCHELASTIC_RESTART_COUNT")
    if attempt == 0 or dist.is_initialized():
        return
    timeout = timedelta(seconds=timeout_seconds)
    store, rank, size = next(dist.rendezvous("env://", timeout=timeout))
    store = dist.PrefixStore(f"attempt-{attempt}", store)
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timeout)


def said_first(question: str, mine: bool) -> bool:
    """Return what was said when this launch asked for the first time; its store outlives the workers of an attempt."""
    if "TORCHELASTIC_RESTART_COUNT" not in os.environ:
        return mine
    store, _, _ = next(dist.rendezvous("env://"))
    return store.compare_set(f"llamafactory/{question}", "", str(mine)) == str(True).encode()


def any_rank(mine: bool) -> bool:
    """Whether it is so on some rank; every rank gets the same answer, after all of them have looked."""
    if not dist.is_initialized():
        return mine
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    found = torch.tensor([float(mine)], device=device)
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return bool(found.item())
