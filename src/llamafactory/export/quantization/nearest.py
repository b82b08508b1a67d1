# SPDX-License-Identifier: Apache-2.0
"""Round to nearest: each weight becomes the nearest value of the grid, whatever the inputs are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...model.grid import Grid, Quantized, nearest

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
    return nearest(weight, moments.diagonal(), grid, dtype)
