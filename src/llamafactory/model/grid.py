# SPDX-License-Identifier: Apache-2.0
"""The values a quantized weight can take, and how the compressed-tensors format stores them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

SHARES = tuple(1 - step / 40 for step in range(21))  # of the full range: 1, 0.975, ..., 0.5


@dataclass(frozen=True)
class Quantized:
    """A weight as codes and scales.

    Attributes:
        codes: int8 or float8_e4m3fn ``[out, in]``.
        scale: In the type of the export, ``[out, groups]``.
        zero: The code that means 0, int8 ``[out, groups]``; None = code 0.
    """

    codes: Tensor
    scale: Tensor
    zero: Tensor | None = None

    def levels(self) -> Tensor:
        """Codes counted from the one that means 0, in the type of the scales, ``[out, groups, group]``; exact."""
        codes = self.codes.to(self.scale.dtype).unflatten(1, (self.scale.shape[1], -1))
        return codes if self.zero is None else codes - self.zero.to(codes.dtype)[..., None]

    def values(self) -> Tensor:
        """What a reader computes: ``(code - zero) * scale`` in the type of the export, ``[out, in]``."""
        return (self.levels() * self.scale[..., None]).flatten(1)

    def to(self, device: torch.device | str) -> Quantized:
        """The same in the memory of a device."""
        zero = None if self.zero is None else self.zero.to(device)
        return Quantized(self.codes.to(device), self.scale.to(device), zero)


class Grid(Protocol):
    """A number format with scales."""

    @property
    def format(self) -> str:
        """Name of the format in compressed-tensors."""
        ...

    def fit(self, weight: Tensor, importance: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        """Choose scales and zeros for a weight.

        Args:
            weight: float32 ``[out, in]``.
            importance: What the squared error of each column costs, float32 ``[in]``; only a search reads it.
            dtype: Type of the scales.

        Returns:
            Scales ``[out, groups]`` in ``dtype``, zeros int8 of the same shape or None.
        """
        ...

    def encode(self, weight: Tensor, scale: Tensor, zero: Tensor | None) -> Tensor:
        """Return the nearest codes of float32 weights; scale and zero broadcast over them."""
        ...

    def store(self, quantized: Quantized) -> dict[str, Tensor]:
        """Return the tensors of the checkpoint by the name they have in their layer."""
        ...

    def scheme(self) -> dict[str, Any]:
        """Return what the checkpoint's configuration says about such layers."""
        ...


@dataclass(frozen=True)
class IntGrid:
    """Integers of ``bits`` bits with a scale, and a zero if not ``symmetric``, for ``group`` weights of a row.

    Attributes:
        search: Try narrower ranges too, and take the one of the least error; else the range reaches every weight.
            A symmetric range that is searched may be mirrored: its scale is negative then.
    """

    bits: int
    group: int
    symmetric: bool = True
    search: bool = True
    format: str = "pack-quantized"

    def fit(self, weight: Tensor, importance: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        """Take the range with the least ``sum(importance * (weight - value)^2)`` of each group."""
        groups = weight.unflatten(1, (-1, self.group))
        if not self.search:
            return self._range(groups, 1.0, dtype)
        assert importance is not None, "a search weighs errors"
        costs = importance.reshape(-1, self.group)
        best: tuple[Tensor, Tensor | None] | None = None
        least = torch.empty(0)
        for share in SHARES:
            scale, zero = self._range(groups, share, dtype)
            codes = self.encode(groups, scale[..., None], None if zero is None else zero[..., None])
            values = Quantized(codes.flatten(1), scale, zero).values().float().view_as(groups)
            error = ((groups - values).square_() * costs).sum(-1)
            if best is None:
                best, least = (scale, zero), error
                continue
            better = error < least
            least = torch.where(better, error, least)
            best = (
                torch.where(better, scale, best[0]),
                None if zero is None or best[1] is None else torch.where(better, zero, best[1]),
            )
        assert best is not None
        return best

    def _range(self, groups: Tensor, share: float, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        """Return scale and zero with which the codes span ``share`` of the range of each group."""
        steps = 2**self.bits - 1
        if self.symmetric:
            # Half of the range reaches the largest weight, so that none is further than half a step from its code.
            reach = groups.abs().amax(-1, keepdim=True)
            if self.search:  # there is one code more below 0 than above: it goes to the largest weight's side
                reach = -groups.gather(-1, groups.abs().argmax(-1, keepdim=True))
            return _storable(share * reach.squeeze(-1) / (steps / 2), dtype), None
        low, high = share * groups.amin(-1).clamp(max=0), share * groups.amax(-1).clamp(min=0)
        scale = _storable((high - low) / steps, dtype)
        half = 2 ** (self.bits - 1)
        return scale, (-half - low / scale.float()).round_().clamp_(-half, half - 1).to(torch.int8)

    def encode(self, weight: Tensor, scale: Tensor, zero: Tensor | None) -> Tensor:
        """Round to the nearest integer of the range."""
        half = 2 ** (self.bits - 1)
        codes = (weight / scale.float()).round_()
        return (codes if zero is None else codes.add_(zero)).clamp_(-half, half - 1).to(torch.int8)

    def store(self, quantized: Quantized) -> dict[str, Tensor]:
        """Codes side by side in words of 32 bits; zeros too, along the rows."""
        from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32

        zeros = {}
        if quantized.zero is not None:
            zeros["weight_zero_point"] = pack_to_int32(quantized.zero, self.bits, packed_dim=0).contiguous()
        return {
            "weight_packed": pack_to_int32(quantized.codes, self.bits),
            "weight_scale": quantized.scale,
            "weight_shape": torch.tensor(quantized.codes.shape),
            **zeros,
        }

    def scheme(self) -> dict[str, Any]:
        """Weights alone are quantized."""
        return {
            "weights": {
                "num_bits": self.bits,
                "type": "int",
                "symmetric": self.symmetric,
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

    def fit(self, weight: Tensor, importance: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        """The largest weight of a row becomes the largest float8."""
        return _storable(weight.abs().amax(1, keepdim=True) / torch.finfo(torch.float8_e4m3fn).max, dtype), None

    def encode(self, weight: Tensor, scale: Tensor, zero: Tensor | None) -> Tensor:
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


def nearest(weight: Tensor, importance: Tensor | None, grid: Grid, dtype: torch.dtype) -> Quantized:
    """Round a weight ``[out, in]`` to the nearest values of a grid that is fitted to it; arguments as of ``fit``."""
    scale, zero = grid.fit(weight, importance, dtype)
    width = weight.shape[1] // scale.shape[1]
    zeros = None if zero is None else zero.repeat_interleave(width, 1)
    return Quantized(grid.encode(weight, scale.repeat_interleave(width, 1), zeros), scale, zero)


def _storable(scale: Tensor, dtype: torch.dtype) -> Tensor:
    """Rounded before it is used, so that codes are chosen for the scale that is stored; 1 where all weights are 0."""
    scale = scale.to(dtype)
    return torch.where(scale == 0, torch.ones_like(scale), scale)
