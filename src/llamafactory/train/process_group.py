# SPDX-License-Identifier: Apache-2.0
"""Ranks that an elastic launch has started anew find each other, not the addresses of the dead."""

from __future__ import annotations

from datetime import timedelta

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
