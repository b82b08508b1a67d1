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
        moments: Not used; the methods share one signature.
        grid: Number format.
        dtype: Type of the scales.
    """
    scale = grid.scales(weight, dtype)
    return Quantized(grid.encode(weight, scale.repeat_interleave(weight.shape[1] // scale.shape[1], 1)), scale)
