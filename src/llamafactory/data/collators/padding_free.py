# SPDX-License-Identifier: Apache-2.0
"""Batches without padding: all sequences in one line, kept apart by ``cu_seqlens``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..media.tensors import along_tokens
from .padded import media_of

if TYPE_CHECKING:
    from ..media.tensors import BatchMedia


class PaddingFreeCollator:
    """Join rows into one line of ``T`` tokens that holds ``S`` isolated sequences.

    Only for attention that keeps the sequences apart (``cu_seqlens``).

    Args:
        tokenizer: Of the model.
        media: Makes the tensors of images, videos and sound; ``None`` = there are none.
    """

    def __init__(self, tokenizer: Any, media: BatchMedia | None = None) -> None:
        self.tokenizer, self.media = tokenizer, media

    def __call__(self, features: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Join features.

        Args:
            features: Rows with ``input_ids``, ``labels``, ``seq_lens`` and perhaps ``weights`` and ``media``.

        Returns:
            ``input_ids``, ``position_ids`` (from 0 in each sequence), ``labels`` (not shifted): ``[1, T]`` int64;
            ``weights``: ``[1, T]`` float32, if any row has them; ``cu_seqlens``: ``[S + 1]`` int32, starts of the
            sequences and the end; ``max_seqlen``: int. And what the processor makes of the media of all sequences in
            order; what has an entry for each token is ``[1, T, ...]``.

        Raises:
            ConfigError: A medium cannot be read.
        """
        lengths = _join(features, "seq_lens", np.int64)
        ends = np.cumsum(lengths)
        starts = ends - lengths
        batch: dict[str, Any] = {
            "input_ids": _line(_join(features, "input_ids", np.int64)),
            "labels": _line(_join(features, "labels", np.int64)),
            "position_ids": _line(np.arange(ends[-1]) - np.repeat(starts, lengths)),
            "cu_seqlens": torch.from_numpy(np.concatenate([[0], ends]).astype(np.int32)),
            "max_seqlen": int(lengths.max()),
        }
        if any("weights" in feature for feature in features):
            batch["weights"] = _line(_join(features, "weights", np.float32))
        if self.media is not None:
            sequences = np.split(batch["input_ids"][0].numpy(), ends[:-1])
            batch |= _laid_in_line(self.media(sequences, media_of(features)), lengths)
        return batch


def _laid_in_line(inputs: dict[str, Any], lengths: np.ndarray) -> dict[str, Any]:
    """What has an entry for each token of S sequences filled on the right, ``[S, L, ...]``, becomes ``[1, T, ...]``."""
    return {
        name: torch.cat([row[:length] for row, length in zip(value, lengths, strict=True)])[None]
        if along_tokens(name)
        else value
        for name, value in inputs.items()
    }


def _join(features: Sequence[dict[str, Any]], key: str, dtype: Any) -> np.ndarray:
    return np.concatenate([np.asarray(feature[key], dtype=dtype) for feature in features])


def _line(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(values).unsqueeze(0)
