# SPDX-License-Identifier: Apache-2.0
"""Sequences that begin alike: the tokens they have in common go through the model once.

Outside attention every layer looks at one token alone, and in causal attention a token sees only what stands before
it, so the hidden states of a common beginning are the same in both sequences. The row ``[prompt, chosen, rejected]`` is
therefore all the model needs; only inside attention is each sequence laid out whole again. Any kernel, window, soft
cap or sink then works as it does without sharing; the prompt's attention, not its matrix products, is done twice.

``shared_prefix`` of a batch holds ``rows`` [T], which token of the row stands at each place of the sequences laid end
to end; ``places`` [L], the first place of each token; ``again`` [T - L], the further places.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def unshare(x: Tensor, shared: dict[str, Tensor]) -> Tensor:
    """Lay ``x [1, H, L, D]`` out as ``[1, H, T, D]``, each sequence with all its tokens."""
    whole: Tensor = _Unshare.apply(x[0].transpose(0, 1), shared["rows"], shared["places"], shared["again"])
    return whole.transpose(0, 1)[None]


class _Unshare(torch.autograd.Function):
    """``x [L, H, D]`` by rows. The gradient adds up over the places of a token, always in the same order."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Tensor, places: Tensor, again: Tensor) -> Tensor:
        ctx.save_for_backward(rows, places, again)
        return x.index_select(0, rows)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        rows, places, again = ctx.saved_tensors
        dx = grad.index_select(0, places)
        return dx.index_add_(0, rows[again], grad.index_select(0, again)), None, None, None
