# SPDX-License-Identifier: Apache-2.0
"""Bytes that are alive and time that a device would take, counted while operations run on tensors without values."""

from __future__ import annotations

import weakref
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .devices import Speed

_CPU_ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_CPU_ATTENTION_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
_ASKED = torch.ops.aten._local_scalar_dense.default  # what `if tensor:` and `tensor.item()` call
_STEPS_OF_BITSANDBYTES = "bitsandbytes::optimizer_update"


class StepMeter(TorchDispatchMode):
    """Follows each storage from its first tensor to its release.

    Whether all of something holds is answered with yes, whether any with no, and whether a module is computed, not
    dropped, with yes, as in an ordinary step: nothing is infinite.

    The time is that of a roofline (Williams et al. 2009): an operation takes as long as its arithmetic or its bytes,
    whichever is longer.

    Args:
        speed: Of the device; None = time is not counted.
        on_cpu: Whether the device is a CPU, where steps of bitsandbytes are ordinary operations with results of their
            own; elsewhere they are one kernel.

    Attributes:
        alive: Bytes of the storages that exist now.
        peak: Most bytes that were alive at once since it was last set.
        seconds: Of all operations so far.
        flops: Of all operations so far.
    """

    def __init__(self, speed: Speed | None = None, on_cpu: bool = False) -> None:
        super().__init__()
        self.speed, self.on_cpu = speed, on_cpu
        self.alive = self.peak = 0
        self.seconds = self.flops = 0.0
        self._before: Any = None  # the operation before
        self._storages: dict[int, tuple[int, Any]] = {}  # address -> bytes, what tells of its end

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is _ASKED and args[0].dtype == torch.bool:
            return self._before is not torch.ops.aten.any
        self._before = func._overloadpacket
        if self.on_cpu and func.name().startswith(_STEPS_OF_BITSANDBYTES):
            with self:
                return func._op_dk(torch._C.DispatchKey.CPU, *args, **kwargs)
        result = func(*args, **kwargs)
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        self.watch(made)
        if self.speed is not None and not func.is_view:
            self._count(func, args, kwargs, result, made)
        return result

    def watch(self, tensors: Iterable[Tensor]) -> None:
        """Count the storages of some tensors from now on."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            key = storage._cdata
            if key not in self._storages:
                self._storages[key] = (storage.nbytes(), weakref.ref(storage, partial(self._released, key)))
                self.alive += storage.nbytes()
        self.peak = max(self.peak, self.alive)

    def _released(self, key: int, _: Any) -> None:
        self.alive -= self._storages.pop(key)[0]

    def _count(self, func: Any, args: Any, kwargs: Any, result: Any, made: list[Tensor]) -> None:
        assert self.speed is not None
        flops = _flops(func, args, kwargs, result)
        taken = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        moved = sum(tensor.numel() * tensor.element_size() for tensor in [*taken, *made])
        narrow = bool(taken) and taken[0].element_size() <= 2
        self.flops += flops
        self.seconds += max(flops / self.speed.flops(narrow), moved / self.speed.bytes_per_second)


def _flops(func: Any, args: Any, kwargs: Any, result: Any) -> float:
    packet = func._overloadpacket
    if packet in (_CPU_ATTENTION, _CPU_ATTENTION_BACKWARD):
        return _attention_flops(packet, args)
    formula = flop_registry.get(packet)
    return float(formula(*args, **kwargs, out_val=result)) if formula else 0.0


def _attention_flops(packet: Any, args: Any) -> float:
    """Two products of all queries with all keys, five in the backward pass; half of them where it is causal."""
    first = 0 if packet is _CPU_ATTENTION else 1  # the backward pass takes the gradient first
    query, key = args[first], args[first + 1]
    products = 2 if packet is _CPU_ATTENTION else 5
    batch, heads, length, size = query.shape
    return float(products * batch * heads * length * key.shape[2] * size)
