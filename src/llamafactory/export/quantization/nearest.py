# SPDX-License-Identifier: Apache-2.0
"""Round to nearest: each weight becomes the nearest value of the grid, whatever the inputs are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .grid import Grid, Quantized

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def quantize(weight: Tensor, moments: Tensor, grid: Grid, dtype: torch.dtype) -> Quantized:
    """Round a weight.

    Args:
        weight: float32 ``[out, in]``.
        moments: Of the inputs, ``[in, in]``; only the diagonal is used, where the grid searches its range.
        grid: Number format.
        dtype: Type of the scales.
    """
    scale, zero = grid.fit(weight, moments.diagonal(), dtype)
    width = weight.shape[1] // scale.shape[1]
    zeros = None if zero is None else zero.repeat_interleave(width, 1)
    return Quantized(grid.encode(weight, scale.repeat_interleave(width, 1), zeros), scale, zero)
