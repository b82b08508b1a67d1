# SPDX-License-Identifier: Apache-2.0
"""Which processes share a weight, and which of them hold copies."""

from __future__ import annotations

import os
from functools import cache
from typing import TYPE_CHECKING

import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import Placement, Replicate, Shard

from ...extras.errors import ConfigError

if TYPE_CHECKING:
    from ...hparams.sharding import Sharding


def mesh_of(sharding: Sharding, device_type: str) -> DeviceMesh:
    """Return the processes as one line of shards, or as rows of shards below each other, a row a replica.

    Raises:
        ConfigError: They cannot be put so.
    """
    processes = dist.get_world_size()
    replicas = sharding.replicas or processes // int(os.environ.get("LOCAL_WORLD_SIZE", processes))
    if not sharding.replicas and replicas < 2:
        raise ConfigError(
            f"fsdp: hybrid_shard shards inside a node and copies between nodes, and all {processes} processes are on "
            "one; give dp_replicate_size in fsdp_config, or use full_shard"
        )
    if processes % replicas or processes // replicas < 2 <= replicas:
        raise ConfigError(
            f"fsdp_config: dp_replicate_size: {replicas} leaves no equal groups of two or more of {processes} processes"
        )
    return _mesh(device_type, replicas, processes // replicas)


@cache
def _mesh(device_type: str, replicas: int, shards: int) -> DeviceMesh:
    """A mesh makes process groups, so there is one for all models."""
    if replicas == 1:
        return init_device_mesh(device_type, (shards,), mesh_dim_names=("shard",))
    return init_device_mesh(device_type, (replicas, shards), mesh_dim_names=("replicate", "shard"))


def placements_of(mesh: DeviceMesh) -> tuple[Placement, ...]:
    """Return where the rows of a weight lie, as ``fully_shard`` puts them."""
    return (Shard(0),) if mesh.ndim == 1 else (Replicate(), Shard(0))
