# SPDX-License-Identifier: Apache-2.0
"""Loading a part of each weight, straight from the file.

transformers fills a parameter that is a DTensor with this process's rows alone, conversions between the file's layout
and the model's included. Between loading and ``fully_shard`` the model is changed (adapters, heads), by code that must
not know of it: there a weight is a :class:`Slice`, of the right shape and type, which has no memory of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Placement, distribute_tensor
from transformers import PreTrainedModel

from .mesh import placements_of


class Slice(nn.Parameter):
    """Stands for a whole weight; ``shard`` is the part that this process holds, and ``placements`` say which."""

    shard: Tensor
    placements: tuple[Placement, ...]

    @staticmethod
    def make(shape: torch.Size, shard: Tensor, placements: tuple[Placement, ...], requires_grad: bool) -> Slice:
        """Return one that looks like a weight of a shape; whoever reads it finds zeros."""
        stand_in = shard.new_zeros(()).expand(shape)
        made: Slice = torch.Tensor._make_subclass(Slice, stand_in, requires_grad)
        made.shard, made.placements = shard, placements
        return made

    def __deepcopy__(self, memo: dict[int, Any]) -> Slice:
        copy = self.make(self.shape, self.shard.clone(), self.placements, self.requires_grad)
        memo[id(self)] = copy
        return copy


@contextmanager
def loading_slices(mesh: DeviceMesh) -> Iterator[Callable[[nn.Module], None]]:
    """Inside, ``from_pretrained`` reads this process's part of each weight; what is given makes slices of them.

    Embeddings and heads are read whole: rows may be added to them, and losses look at their values.
    """
    with loading_parts(lambda model: _distribute(model, mesh)):
        yield make_slices


@contextmanager
def loading_parts(cut: Callable[[PreTrainedModel], None]) -> Iterator[None]:
    """Inside, ``from_pretrained`` fills what ``cut`` leaves of a model on the meta device."""
    plain = PreTrainedModel.__dict__["_load_pretrained_model"]

    def load(model: PreTrainedModel, *args: Any, **options: Any) -> Any:
        cut(model)
        return plain.__func__(model, *args, **options)

    PreTrainedModel._load_pretrained_model = staticmethod(load)
    try:
        yield
    finally:
        PreTrainedModel._load_pretrained_model = plain


def _distribute(model: PreTrainedModel, mesh: DeviceMesh) -> None:
    """Make DTensors of the weights of a model on the meta device; what has fewer rows than processes stays whole."""
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    whole = {id(weight) for end in ends if end is not None for weight in end.parameters()}
    for module in model.modules():
        for name, weight in module._parameters.items():
            if weight is None or id(weight) in whole or not weight.dim() or weight.shape[0] < mesh.size():
                continue
            cut = distribute_tensor(weight.data, mesh, placements_of(mesh), src_data_rank=None)
            module._parameters[name] = nn.Parameter(cut, requires_grad=weight.requires_grad)


def make_slices(model: nn.Module) -> None:
    """Put slices in the place of the weights of which this process has read a part."""
    for module in model.modules():
        for name, weight in module._parameters.items():
            if isinstance(weight, DTensor):
                local, placements = weight.to_local(), tuple(weight.placements)
                module._parameters[name] = Slice.make(weight.shape, local, placements, weight.requires_grad)
