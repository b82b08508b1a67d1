# SPDX-License-Identifier: Apache-2.0
"""NEFTune (Jain et al. 2023, arXiv:2310.05914): noise on input embeddings while training."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback

from ...model.wrapping import beneath_adapters


class NoiseCallback(TrainerCallback):
    """Adds noise of the paper's size: uniform up to ``alpha / sqrt(L d)``, L tokens in the sequence, d wide embeddings.

    Transformers' own hook takes the length of the batch's row for L. Here a row holds many sequences, so that the noise
    would depend on how they were packed.

    Args:
        alpha: ``neftune_noise_alpha``.
    """

    def __init__(self, alpha: float) -> None:
        self.alpha = alpha
        self._lengths: Tensor | None = None
        self._hooks: list[Any] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Listen to the model for what its batches hold, and to its embedding."""
        core = beneath_adapters(model)
        self._hooks = [
            model.register_forward_pre_hook(self._note, with_kwargs=True),
            core.get_input_embeddings().register_forward_hook(self._add),
        ]

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Leave the model as it was."""
        for hook in self._hooks:
            hook.remove()

    def _note(self, model: nn.Module, args: Any, batch: dict[str, Any]) -> None:
        self._lengths = _lengths(batch)

    def _add(self, embedding: nn.Module, ids: Any, output: Tensor) -> Tensor | None:
        if not embedding.training:
            return None
        length = output.shape[1] if self._lengths is None else self._lengths.to(output.device)
        size = self.alpha / torch.as_tensor(length * output.shape[-1], dtype=torch.float32).sqrt()
        noise: Tensor = torch.empty_like(output).uniform_(-1, 1)
        return output + noise * size.to(output)


def _lengths(batch: dict[str, Any]) -> Tensor | None:
    """How many tokens the sequence of each token has, ``[B, T or 1, 1]``; None: as many as the row."""
    if (bounds := batch.get("cu_seqlens")) is not None:
        sizes = bounds.diff()
        of_tokens = sizes.repeat_interleave(sizes)
        if batch.get("shared_prefix"):
            of_tokens = of_tokens.index_select(0, batch["shared_prefix"]["places"].to(of_tokens.device))
        return of_tokens[None, :, None]
    mask = batch.get("attention_mask")
    return None if mask is None else mask.sum(1)[:, None, None]
