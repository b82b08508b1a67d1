# SPDX-License-Identifier: Apache-2.0
"""Layers that several processes share, by the plans that transformers has for its models.

Tensor parallelism (Shoeybi et al. 2019, arXiv:1909.08053): each process holds some rows or columns of each matrix, and
all compute the same batch. Expert parallelism (Lepikhin et al. 2020, arXiv:2006.16668): each holds some experts, and
tokens travel to them; batches differ. What a plan does not name is whole everywhere, embeddings and heads always.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from peft.tuners.lora.layer import Linear as LoraLinear
from peft.tuners.lora.layer import ParamWrapper
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Shard
from transformers import PreTrainedModel
from transformers.distributed import DistributedConfig
from transformers.distributed.expert_parallel import apply_expert_parallelism
from transformers.distributed.parallel_utils import ALL_PARALLEL_STYLES
from transformers.distributed.tensor_parallel import apply_tensor_parallelism

from ...extras.errors import ConfigError
from .slices import Slice

if TYPE_CHECKING:
    from ...hparams.sharding import Sharding

# A norm of single heads has a part of its gradient on each process. Transformers adds them up after each micro-batch,
# and so the first of several once more each time: here they are added up once a step.
_SUMMED = "replicated_with_grad_allreduce"
_BUCKET = 1 << 23  # numbers that travel together


@cache
def _mesh(device_type: str, size: int) -> DeviceMesh:
    """A mesh makes process groups, so there is one for all models."""
    replicas = dist.get_world_size() // size
    return init_device_mesh(device_type, (replicas, size, 1), mesh_dim_names=("data", "tp", "one"))


def mesh_of(sharding: Sharding, device_type: str) -> DeviceMesh:
    """Return the processes as rows below each other, a row a model.

    Raises:
        ConfigError: They cannot be put so.
    """
    size, processes = sharding.tensor * sharding.expert, dist.get_world_size()
    if processes % size:
        raise ConfigError(f"{sharding.key}: {size} does not divide the {processes} processes of this run")
    return _mesh(device_type, size)


def cut_layers(model: PreTrainedModel, sharding: Sharding, device_type: str) -> None:
    """Make parts of the weights of a model on the meta device, which loading fills, and let its layers use them.

    Raises:
        ConfigError: Transformers has no plan for the model, or it does not come out even.
    """
    size, mesh, kind = sharding.tensor * sharding.expert, mesh_of(sharding, device_type), model.config.model_type
    named = model.tp_plan if sharding.tensor > 1 else model.ep_plan
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    whole = [name for name, module in model.named_modules() if any(module is end for end in ends)]
    plan = {name: style for name, style in (named or {}).items() if name not in whole}
    if not plan:
        raise ConfigError(f"{sharding.key}: transformers has no plan for {kind} models")
    if sharding.tensor > 1:
        _require_even(model.config.get_text_config(), size)
        summed = [name for name, style in plan.items() if style == _SUMMED]
        model.tp_plan = {name: style for name, style in plan.items() if name not in summed}
        model._summed_in_parts = tuple(summed)
        config = DistributedConfig(tp_size=size)
        apply_tensor_parallelism(model, mesh["tp"], model._resolve_parallel_plans(config)[0])
    else:
        config = DistributedConfig(fsdp_size=size, ep_size=size)
        experts = model._resolve_parallel_plans(config)[1]
        apply_expert_parallelism(model, mesh["tp"], mesh["one"], experts, "all_to_all")


def _require_even(config: Any, size: int) -> None:
    heads = {"num_attention_heads", "num_key_value_heads"}
    for name in sorted(heads):
        count = getattr(config, name, None)
        if isinstance(count, int) and count % size:
            raise ConfigError(f"tensor_parallel_size: {size} does not divide {name}, which is {count}")


def settle(model: nn.Module, core: Any, sharding: Sharding, device_type: str) -> nn.Module:
    """Let this process have its part of each layer, adapters included, and remember how gradients come together."""
    mesh = mesh_of(sharding, device_type)
    for module in core.modules():
        for name, weight in module._parameters.items():
            if isinstance(weight, Slice):
                local = weight.shard.to(dtype=weight.dtype, device=device_type)
                full = DTensor.from_local(
                    local,
                    mesh["tp"],
                    weight.placements,
                    run_check=False,
                    shape=weight.shape,
                    stride=torch.empty(weight.shape, device="meta").stride(),
                )
                module._parameters[name] = nn.Parameter(full, requires_grad=weight.requires_grad)
    for layer in core.modules():
        if isinstance(layer, ParamWrapper) and isinstance(layer.get_param(), DTensor):
            raise ConfigError(
                f"{sharding.key}: an adapter on experts that processes share is not built; lora_target: "
                "q_proj,k_proj,v_proj,o_proj leaves them out"
            )
        if isinstance(layer, LoraLinear) and isinstance(layer.get_base_layer().weight, DTensor):
            _cut_adapter(layer, mesh["tp"])
    core._gradients = Gradients(model, core, sharding, mesh)
    return model


def _cut_adapter(layer: LoraLinear, mesh: DeviceMesh) -> None:
    """Cut the matrix of an adapter that looks at what its base's layer is cut by."""
    columns = layer.get_base_layer().weight.placements == (Shard(0),)
    style = ALL_PARALLEL_STYLES["colwise" if columns else "rowwise"]
    for part in (layer.lora_B if columns else layer.lora_A).values():
        style.shard_param(part, "weight", mesh)
        style.install_forward(part, mesh)


class Gradients:
    """Brings the gradients of a step together, once all its micro-batches are done.

    Attributes:
        sharding: How layers are shared.
        mesh: The processes.
    """

    def __init__(self, model: nn.Module, core: Any, sharding: Sharding, mesh: DeviceMesh) -> None:
        self.sharding, self.mesh = sharding, mesh
        modules = tuple(name.rpartition(".")[2] for name in getattr(core, "_summed_in_parts", ()))
        self._weights = [weight for weight in model.parameters() if weight.requires_grad]
        self._summed = {
            id(weight)
            for name, module in core.named_modules()
            if name.rpartition(".")[2] in modules
            for weight in module.parameters()
        }

    def reduce(self) -> None:
        """Make each gradient the mean over processes with other rows, of which some parts are sums; all call this."""
        tensor = self.sharding.tensor > 1
        data, parts = self.mesh["data"], self.mesh["tp"]
        summed: list[Tensor] = []
        whole: list[Tensor] = []
        cut: list[Tensor] = []
        for weight in self._weights:
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)  # another process may have one
            local = weight.grad.to_local() if isinstance(weight.grad, DTensor) else weight.grad
            (cut if isinstance(weight.grad, DTensor) else whole).append(local)
            if id(weight) in self._summed:
                summed.append(local)
        _add_up(summed, parts)
        if not tensor:
            _add_up(whole, parts)
            # An expert has the gradient of all its tokens, wherever they are from: a sum already.
            for local in (*whole, *cut):
                local /= parts.size()
        if data.size() > 1:
            _add_up([*whole, *cut], data)
            for local in (*whole, *cut):
                local /= data.size()


def _add_up(tensors: list[Tensor], mesh: DeviceMesh) -> None:
    for bucket in _buckets(tensors):
        flat = torch.cat([one.flatten() for one in bucket])
        dist.all_reduce(flat, group=mesh.get_group())
        for one, total in zip(bucket, flat.split([one.numel() for one in bucket]), strict=True):
            one.copy_(total.view_as(one))


def _buckets(tensors: list[Tensor]) -> Iterator[list[Tensor]]:
    """Give tensors of one type at a time, of about :data:`_BUCKET` numbers."""
    for dtype in sorted({one.dtype for one in tensors}, key=str):
        bucket: list[Tensor] = []
        for one in tensors:
            if one.dtype == dtype:
                bucket.append(one)
            if sum(held.numel() for held in bucket) >= _BUCKET:
                yield bucket
                bucket = []
        if bucket:
            yield bucket
