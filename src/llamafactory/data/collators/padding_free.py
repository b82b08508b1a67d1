# SPDX-License-Identifier: Apache-2.0
"""Batches without padding: all sequences in one line, kept apart by ``cu_seqlens``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch


class PaddingFreeCollator:
    """Join rows into one line of ``T`` tokens that holds ``S`` isolated sequences.

    Only for attention that keeps the sequences apart (``cu_seqlens``).
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def __call__(self, features: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Join features.

        Args:
            features: Rows with ``input_ids``, ``labels``, ``seq_lens`` and perhaps ``weights``.

        Returns:
            ``input_ids``, ``position_ids`` (from 0 in each sequence), ``labels`` (not shifted): ``[1, T]`` int64;
            ``weights``: ``[1, T]`` float32, if any row has them; ``cu_seqlens``: ``[S + 1]`` int32, starts of the
            sequences and the end; ``max_seqlen``: int.
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
        return batch


def _join(features: Sequence[dict[str, Any]], key: str, dtype: Any) -> np.ndarray:
    return np.concatenate([np.asarray(feature[key], dtype=dtype) for feature in features])


def _line(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(values).unsqueeze(0)
