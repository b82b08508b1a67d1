# SPDX-License-Identifier: Apache-2.0
"""Batches of rows that hold two completions each, on top of a collator of single sequences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

Collator = Callable[[Sequence[dict[str, Any]]], dict[str, Any]]


class PairCollator:
    """Sequences 2k and 2k + 1 of the batch are the chosen and the rejected completion of pair k.

    Args:
        single: Padding-free or padded collator of sequences.
        least_shared: Let both sequences of a pair have the tokens at which they begin alike in common
            (:func:`share_prefixes`) if that saves at least this share of a batch's tokens; None = never.
    """

    def __init__(self, single: Collator, least_shared: float | None = None) -> None:
        self.single, self.least_shared = single, least_shared

    def __call__(self, features: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Collate P pairs to what ``single`` makes of 2 P sequences; ``margin`` [P], ``reference`` [2 P] if known."""
        batch = self.single([sequence for feature in features for sequence in split_row(feature)])
        if self.least_shared is not None:
            batch = share_prefixes(batch, self.least_shared)
        for name in ("margin", "reference"):
            if name in features[0]:
                batch[name] = torch.tensor([feature[name] for feature in features]).flatten()
        return batch


def share_prefixes(batch: dict[str, Any], least: float = 0.0) -> dict[str, Any]:
    """Lay the tokens at which the two sequences of each pair begin alike only once into the line.

    Args:
        batch: Padding-free, 2 P sequences of T tokens in all.
        least: Leave the batch as it is if less than this share of its tokens is saved.

    Returns:
        The batch with ``input_ids`` and ``position_ids`` [1, L], L <= T, and ``shared_prefix``: ``rows`` [T], which
        token of the line stands at each place of the sequences; ``places`` [L], the first place of each token;
        ``again`` [T - L], the other places. All else (``labels``, ``cu_seqlens``, …) speaks of the sequences as before.
    """
    ids, bounds = batch["input_ids"][0].numpy(), batch["cu_seqlens"].tolist()
    first = np.arange(len(ids))
    for begin, middle, end in zip(bounds[:-2:2], bounds[1:-1:2], bounds[2::2], strict=True):
        length = min(middle - begin, end - middle)
        unlike = np.flatnonzero(ids[begin : begin + length] != ids[middle : middle + length])
        alike = int(unlike[0]) if len(unlike) else length
        first[middle : middle + alike] = np.arange(begin, begin + alike)
    is_new = first == np.arange(len(ids))
    if len(ids) - is_new.sum() < max(1, least * len(ids)):
        return batch
    places, again = (torch.from_numpy(np.flatnonzero(which)) for which in (is_new, ~is_new))
    rows = torch.from_numpy((np.cumsum(is_new) - 1)[first])
    line = {name: batch[name].index_select(1, places) for name in ("input_ids", "position_ids")}
    return {**batch, **line, "shared_prefix": {"rows": rows, "places": places, "again": again}}


class FeedbackCollator:
    """The labelled completions as a batch, with ``desirable`` [B] bool and the batch ``mismatched`` for KTO's KL.

    Args:
        single: Padding-free or padded collator of sequences.
    """

    def __init__(self, single: Collator) -> None:
        self.single = single

    def __call__(self, features: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Collate B labelled completions."""
        own, mismatched = zip(*map(split_row, features), strict=True)
        desirable = torch.tensor([bool(feature["desirable"][0]) for feature in features])
        batch = {**self.single(own), "desirable": desirable, "mismatched": self.single(mismatched)}
        if "reference" in features[0]:
            known = torch.tensor([feature["reference"] for feature in features])
            batch["reference"], batch["mismatched"]["reference"] = known[:, 0], known[:, 1]
        return batch


def split_row(feature: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the sequences of a row as rows of their own."""
    rows: list[dict[str, Any]] = []
    start = 0
    for length in feature["seq_lens"]:
        part = slice(start, start + length)
        row = {name: feature[name][part] for name in ("input_ids", "labels")} | {"seq_lens": [length]}
        rows.append(row | ({"media": [feature["media"][len(rows)]]} if "media" in feature else {}))
        start += length
    return rows
