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


class RankingCollator:
    """Sequences of the batch are the documents of each row with its query, row after row.

    Args:
        single: Padding-free or padded collator of sequences.
    """

    def __init__(self, single: Callable[[Sequence[dict[str, Any]]], dict[str, Any]]) -> None:
        self.single = single

    def __call__(self, features: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Collate R rows of S documents in all to what ``single`` makes of S sequences, and what stands beside them.

        Returns:
            ``owners``: [S], the row of each, -1 where the row only fills a batch; ``grades``: [S] float32; for models
            that tell the texts of a pair apart ``token_type_ids`` [S, L].
        """
        batch = self.single([one for row in features for one in split_row(row)])
        fills = [all(label == IGNORED for label in one["labels"]) for one in features]
        owners = [-1 if fills[number] else number for number, one in enumerate(features) for _ in one["grades"]]
        grades = [grade for one in features for grade in one["grades"]]
        seconds = torch.tensor([second for one in features for second in one["seconds"]])
        if "cu_seqlens" not in batch and (seconds < batch["attention_mask"].sum(1)).any():
            place = torch.arange(batch["input_ids"].shape[1])
            batch["token_type_ids"] = (place >= seconds[:, None]).long() * batch["attention_mask"]
        return {**batch, "owners": torch.tensor(owners), "grades": torch.tensor(grades)}


def _key(ids: Sequence[int]) -> int:
    digest = hashlib.blake2b(np.asarray(ids, dtype=np.int32).tobytes(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)
