# SPDX-License-Identifier: Apache-2.0
"""How the tokens of a completion are drawn: by uniform numbers of its own, whatever is drawn beside it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from .rollout import Request, Sampling


class Drawing:
    """Draws the next token of each row by one uniform number: the first whose cumulative probability exceeds it.

    The numbers come from the request's seed and the place in the completion alone (:func:`uniform`), so a draw does not
    depend on the batch it is in, on the rank, or on what was drawn before.
    """

    def __init__(self, sampling: Sampling) -> None:
        self._warpers: list[Any] = []
        if sampling.temperature != 1.0:
            self._warpers.append(TemperatureLogitsWarper(sampling.temperature))
        if sampling.top_k > 0:
            self._warpers.append(TopKLogitsWarper(sampling.top_k))
        if sampling.top_p < 1.0:
            self._warpers.append(TopPLogitsWarper(sampling.top_p))

    def __call__(self, logits: Tensor, numbers: Tensor) -> Tensor:
        """Return tokens [R] of logits [R, V], which stay as they are, by numbers [R] in [0, 1)."""
        logits = logits.float()
        for warper in self._warpers:
            logits = warper(None, logits)
        mass = torch.softmax(logits, -1).double().cumsum(-1)
        wanted = numbers[:, None] * mass[:, -1:]
        return torch.searchsorted(mass, wanted, right=True).clamp(max=mass.shape[1] - 1)[:, 0]


def uniform(request: Request, count: int) -> Tensor:
    """Return the numbers [count] of a request's next draws, float64."""
    generator = torch.Generator().manual_seed(request.seed)
    return torch.rand(request.drawn + count, generator=generator, dtype=torch.float64)[request.drawn :]
