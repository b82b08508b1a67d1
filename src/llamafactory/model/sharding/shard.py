# SPDX-License-Identifier: Apache-2.0
"""torch's ``fully_shard`` on a model that is ready to train: per decoder layer, the rest last.

A layer's frozen weights (bfloat16) and its adapters (float32) are one group: they are gathered together, each in its
own type, and only what is trained has gradients to scatter.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import CPUOffloadPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor

from ...extras.errors import ConfigError, first_names
from ..towers import outside_language
from ..wrapping import beneath_adapters
from .layers import settle
from .mesh import mesh_of
from .slices import Slice

if TYPE_CHECKING:
    from ...hparams.sharding import Sharding


def shard(model: nn.Module, sharding: Sharding, device_type: str) -> nn.Module:
    """Leave this process its part of each weight; the same object is returned, on its device.

    Args:
        model: Ready to train, its weights whole or slices.
        sharding: How.
        device_type: Where it is computed, ``cpu`` or ``cuda``.

    Raises:
        ConfigError: Trained weights are of several types, or a class to wrap is not there.
    """
    core = beneath_adapters(model)
    if sharding.key != "fsdp":
        return settle(model, core, sharding, device_type)
    _require_one_type(model)
    mesh = mesh_of(sharding, device_type)
    shards = _take_out_slices(core)
    policy: OffloadPolicy = CPUOffloadPolicy(pin_memory=device_type != "cpu") if sharding.offload else OffloadPolicy()
    for layer in _layers(core, sharding):
        fully_shard(layer, mesh=mesh, reshard_after_forward=sharding.reshard, offload_policy=policy)
    fully_shard(core, mesh=mesh, reshard_after_forward=False, offload_policy=policy)
    _put_back(shards, "cpu" if sharding.offload else device_type)
    core._is_fsdp_managed_module = True  # transformers' word, for generate and for accumulation
    return model


def is_sharded(model: Any) -> bool:
    """Whether :func:`shard` was called for a model, adapters around it or not."""
    return bool(getattr(model, "_is_fsdp_managed_module", False))


def _require_one_type(model: nn.Module) -> None:
    types = sorted({str(weight.dtype).removeprefix("torch.") for weight in model.parameters() if weight.requires_grad})
    if len(types) > 1:
        raise ConfigError(f"fsdp: the trained weights are of several types ({', '.join(types)}), which is not built")


def _layers(core: Any, sharding: Sharding) -> list[nn.Module]:
    """Return the modules that are gathered one at a time, inner ones first."""
    if not sharding.wraps:
        return []
    names = set(sharding.layers or core._no_split_modules or ())
    there = {type(module).__name__ for module in core.modules()}
    lacking = sorted(name for name in sharding.layers if name not in there)
    if lacking:
        raise ConfigError(
            f"fsdp_config: transformer_layer_cls_to_wrap: {', '.join(lacking)} not found; the model has "
            f"{first_names(sorted(there))}"
        )
    # What sees and hears goes with the rest, which every process gathers: some have no media in a batch.
    outside = re.compile(outside_language(core) or "(?!)")
    found = [
        module
        for name, module in core.named_modules()
        if type(module).__name__ in names and module is not core and not outside.fullmatch(name)
    ]
    return found[::-1]


def _take_out_slices(core: nn.Module) -> dict[tuple[nn.Module, str], Tensor]:
    """Put empty weights in the place of slices, which ``fully_shard`` cuts without memory; return the parts."""
    shards: dict[tuple[nn.Module, str], Tensor] = {}
    for module in core.modules():
        for name, weight in module._parameters.items():
            if isinstance(weight, Slice):
                shards[module, name] = weight.shard
                empty = torch.empty(weight.shape, dtype=weight.dtype, device="meta")
                module._parameters[name] = nn.Parameter(empty, requires_grad=weight.requires_grad)
    return shards


def _put_back(shards: dict[tuple[nn.Module, str], Tensor], device_type: str) -> None:
    for (module, name), part in shards.items():
        cut: Any = module._parameters[name]
        assert isinstance(cut, DTensor) and cut.to_local().shape == part.shape, name
        local = part.to(dtype=cut.dtype, device=device_type)
        full = DTensor.from_local(
            local, cut.device_mesh, cut.placements, run_check=False, shape=cut.shape, stride=cut.stride()
        )
        module._parameters[name] = nn.Parameter(full, requires_grad=cut.requires_grad)
