# SPDX-License-Identifier: Apache-2.0
"""The values a quantized weight can take, and how the compressed-tensors format stores them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Quantized:
    """A weight as codes and scales.

    Attributes:
        codes: int8 or float8_e4m3fn ``[out, in]``.
        scale: In the type of the export, ``[out, groups]``.
    """

    codes: Tensor
    scale: Tensor

    def values(self) -> Tensor:
        """What a reader of the checkpoint computes, in the type of the export: ``code * scale``, ``[out, in]``."""
        codes = self.codes.to(self.scale.dtype).unflatten(1, (self.scale.shape[1], -1))
        return (codes * self.scale[..., None]).flatten(1)

    def cpu(self) -> Quantized:
        """The same in main memory."""
        return Quantized(self.codes.cpu(), self.scale.cpu())


class Grid(Protocol):
    """A number format with scales."""

    @property
    def format(self) -> str:
        """Name of the format in compressed-tensors."""
        ...

    def scales(self, weight: Tensor, dtype: torch.dtype) -> Tensor:
        """Return scales ``[out, groups]`` in ``dtype`` that reach the largest weight of each group."""
        ...

    def encode(self, weight: Tensor, scale: Tensor) -> Tensor:
        """Return the nearest codes of float32 weights; the scale broadcasts over them."""
        ...

    def store(self, quantized: Quantized) -> dict[str, Tensor]:
        """Return the tensors of the checkpoint by the name they have in their layer."""
        ...

    def scheme(self) -> dict[str, Any]:
        """Return what the checkpoint's configuration says about such layers."""
        ...


@dataclass(frozen=True)
class IntGrid:
    """Symmetric integers: ``bits`` bits and one scale for ``group`` neighbouring weights of a row."""

    bits: int
    group: int
    format: str = "pack-quantized"

    def scales(self, weight: Tensor, dtype: torch.dtype) -> Tensor:
        """Half of the range reaches the largest weight, so that none is further than half a step from its code."""
        largest = weight.unflatten(1, (-1, self.group)).abs().amax(-1)
        return _storable(largest / ((2**self.bits - 1) / 2), dtype)

    def encode(self, weight: Tensor, scale: Tensor) -> Tensor:
        """Round to the nearest integer of the range."""
        half = 2 ** (self.bits - 1)
        return (weight / scale.float()).round_().clamp_(-half, half - 1).to(torch.int8)

    def store(self, quantized: Quantized) -> dict[str, Tensor]:
        """Codes side by side in words of 32 bits."""
        from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32

        return {
            "weight_packed": pack_to_int32(quantized.codes, self.bits),
            "weight_scale": quantized.scale,
            "weight_shape": torch.tensor(quantized.codes.shape),
        }

    def scheme(self) -> dict[str, Any]:
        """Weights alone are quantized."""
        return {
            "weights": {
                "num_bits": self.bits,
                "type": "int",
                "symmetric": True,
                "strategy": "group",
                "group_size": self.group,
                "dynamic": False,
            },
            "input_activations": None,
        }


@dataclass(frozen=True)
class Float8Grid:
    """Float8 (e4m3) weights with one scale a row; servers also round each token's inputs to float8 when they run."""

    format: str = "float-quantized"

    def scales(self, weight: Tensor, dtype: torch.dtype) -> Tensor:
        """The largest weight of a row becomes the largest float8."""
        return _storable(weight.abs().amax(1, keepdim=True) / torch.finfo(torch.float8_e4m3fn).max, dtype)

    def encode(self, weight: Tensor, scale: Tensor) -> Tensor:
        """Round to the nearest float8."""
        largest = torch.finfo(torch.float8_e4m3fn).max
        return (weight / scale.float()).clamp_(-largest, largest).to(torch.float8_e4m3fn)

    def store(self, quantized: Quantized) -> dict[str, Tensor]:
        """Codes as they are."""
        return {"weight": quantized.codes, "weight_scale": quantized.scale}

    def scheme(self) -> dict[str, Any]:
        """Weights by row, inputs by token with scales that are found while the model runs."""
        common = {"num_bits": 8, "type": "float", "symmetric": True}
        return {
            "weights": {**common, "strategy": "channel", "dynamic": False},
            "input_activations": {**common, "strategy": "token", "dynamic": True},
        }


def _storable(scale: Tensor, dtype: torch.dtype) -> Tensor:
    """Rounded before it is used, so that codes are chosen for the scale that is stored; 1 where all weights are 0."""
    scale = scale.to(dtype)
    return torch.where(scale == 0, torch.ones_like(scale), scale)
