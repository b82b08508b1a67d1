# SPDX-License-Identifier: Apache-2.0
"""GPTQ (Frantar et al. 2022, arXiv:2210.17323): columns still to come make good the error of each rounded one."""

from __future__ import annotations

import torch
from torch import Tensor

from ...extras.errors import ConfigError
from ...model.grid import Grid, Quantized

BLOCK = 128  # columns whose feedback to the rest is added in one product (section 3.3, step 2)
DAMPING = 0.05  # share of the mean diagonal that is added to the diagonal (section 3.3, step 3, has 0.01)


def quantize(weight: Tensor, moments: Tensor, grid: Grid, dtype: torch.dtype) -> Quantized:
    """Round a weight so that ``||W X - Q X||^2`` is small on the calibration inputs.

    Columns are rounded in the order of falling input energy, the important ones first, while most columns can still
    take up their error. Scales are those of the original weights in their original place, so a reader needs no order.

    Args:
        weight: float32 ``[out, in]``.
        moments: ``X X^T / n``, float32 ``[in, in]``: the Hessian of the squared error, up to a factor
            (:class:`.blocks.SharedInput`).
        grid: Number format.
        dtype: Type of the scales.

    Raises:
        ConfigError: The moments are not finite.
    """
    energy = moments.diagonal()
    order = energy.argsort(descending=True)
    feedback = _feedback(moments[order][:, order])
    # What an error of a column costs once the columns still to come have made good what they can.
    costs = torch.empty_like(energy)
    costs[order] = feedback.diagonal().square().reciprocal()
    scale, zero = grid.fit(weight, costs.where(energy > 0, 0.0), dtype)
    width = weight.shape[1] // scale.shape[1]
    columns = weight[:, order]  # a copy
    scales = scale.repeat_interleave(width, 1)[:, order]
    zeros = None if zero is None else zero.repeat_interleave(width, 1)[:, order]
    codes = []
    for start in range(0, columns.shape[1], BLOCK):
        stop = min(start + BLOCK, columns.shape[1])
        errors = torch.empty_like(columns[:, start:stop])
        for at in range(start, stop):
            at_zero = None if zeros is None else zeros[:, at]
            code = grid.encode(columns[:, at], scales[:, at], at_zero)
            level = code.to(dtype) if at_zero is None else code.to(dtype) - at_zero.to(dtype)
            value = (level * scales[:, at]).float()
            error = (columns[:, at] - value) / feedback[at, at]
            columns[:, at:stop] -= error[:, None] * feedback[at, at:stop]
            errors[:, at - start] = error
            codes.append(code)
        columns[:, stop:] -= errors @ feedback[start:stop, stop:]
    return Quantized(torch.stack(codes, 1)[:, order.argsort()].contiguous(), scale, zero)


def _feedback(moments: Tensor) -> Tensor:
    """Return upper ``U`` with ``U^T U = H^-1``: row ``i``, over its diagonal, spreads the error of column ``i``."""
    hessian = moments.clone()
    diagonal = hessian.diagonal()
    diagonal[diagonal == 0] = 1.0  # an input that was never there takes up no error and makes none
    damping = DAMPING * float(diagonal.mean())
    for _ in range(3):
        diagonal += damping
        lower, failed = torch.linalg.cholesky_ex(hessian)
        if not failed:
            inverse = torch.cholesky_inverse(lower)
            upper, failed = torch.linalg.cholesky_ex(inverse, upper=True)
            if not failed:
                return upper
        damping *= 10
    raise ConfigError(
        "export_quantization_dataset: the inputs of a layer have no usable second moments; the model gives values that "
        "are not finite, or the calibration rows are too few"
    )
