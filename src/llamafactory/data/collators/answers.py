# SPDX-License-Identifier: Apache-2.0
"""Batches of rows that hold two answers each, on top of a collator of single sequences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

Collator = Callable[[Sequence[dict[str, Any]]], dict[str, Any]]


class PairCollator:
    """Sequences 2k and 2k + 1 of the batch are the preferred and the other answer of pair k.

    Args:
        single: Padding-free or padded collator of sequences.
    """

    def __init__(self, single: Collator) -> None:
        self.single = single

    def __call__(self, features: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Collate P pairs to what ``single`` makes of 2 P sequences, and ``reference`` [2 P] if the rows have it."""
        batch = self.single([sequence for feature in features for sequence in split_row(feature)])
        if "reference" in features[0]:
            batch["reference"] = torch.tensor([feature["reference"] for feature in features]).flatten()
        return batch


class FeedbackCollator:
    """The judged answers as a batch, with ``desirable`` [B] bool and the batch ``mismatched`` for KTO's KL.

    Args:
        single: Padding-free or padded collator of sequences.
    """

    def __init__(self, single: Collator) -> None:
        self.single = single

    def __call__(self, features: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Collate B judged answers."""
        judged, mismatched = zip(*map(split_row, features), strict=True)
        desirable = torch.tensor([bool(feature["desirable"][0]) for feature in features])
        batch = {**self.single(judged), "desirable": desirable, "mismatched": self.single(mismatched)}
        if "reference" in features[0]:
            known = torch.tensor([feature["reference"] for feature in features])
            batch["reference"], batch["mismatched"]["reference"] = known[:, 0], known[:, 1]
        return batch


def split_row(feature: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the sequences of a row as rows of their own."""
    rows, start = [], 0
    for length in feature["seq_lens"]:
        part = slice(start, start + length)
        rows.append({name: feature[name][part] for name in ("input_ids", "labels")} | {"seq_lens": [length]})
        start += length
    return rows
