# SPDX-License-Identifier: Apache-2.0
"""Batches of queries with documents, on top of a collator of single sequences."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from .completions import split_row
from .padded import IGNORED


class EmbeddingCollator:
    """Sequences of the batch are the query of each row and its documents, row after row.

    Args:
        single: Padding-free or padded collator of sequences.
    """

    def __init__(self, single: Callable[[Sequence[dict[str, Any]]], dict[str, Any]]) -> None:
        self.single = single

    def __call__(self, features: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Collate R rows of D documents to what ``single`` makes of R + D sequences, and what stands beside them.

        Returns:
            ``keys``: [R + D] int64, equal for equal texts; ``owners``: [R + D], the row of each sequence, -1 where the
            row only fills a batch; ``grades``: [R + D] float32, of documents; NaN marks a query.
        """
        sequences = [split_row(one) for one in features]
        fills = [all(label == IGNORED for label in one["labels"]) for one in features]
        batch = self.single([one for row in sequences for one in row])
        owners = [-1 if fill else number for number, fill in enumerate(fills) for _ in sequences[number]]
        grades = [grade for one in features for grade in (float("nan"), *one["grades"])]
        keys = [_key(one["input_ids"]) for row in sequences for one in row]
        beside = {"keys": torch.tensor(keys), "owners": torch.tensor(owners), "grades": torch.tensor(grades)}
        return {**batch, **beside}


def _key(ids: Sequence[int]) -> int:
    digest = hashlib.blake2b(np.asarray(ids, dtype=np.int32).tobytes(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)
