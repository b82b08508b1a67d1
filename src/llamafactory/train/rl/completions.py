# SPDX-License-Identifier: Apache-2.0
"""Batches of completions: what of them goes through the model, and their tokens as a line or as rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ...data.processor import IGNORED
from ..token_scores import trained_positions
from .rollouts.rollout import Rollout

Batch = dict[str, Any]


def make_batch(rollouts: Sequence[Rollout], collator: Any, slots: Sequence[int], rows: Sequence[int]) -> Batch:
    """Collate S completions.

    Returns:
        What ``collator`` makes, and ``positions`` [N] of the tokens the model wrote; ``inputs``, the names of all this;
        ``lengths`` (how many tokens of its own each completion has), ``finished``, ``slots``, ``rows`` (of the
        dataset), ``kept`` [S] (1 = counts in the loss); ``drawn`` [N], log-probabilities when it was drawn, if the
        engine told all of them.
    """
    batch: Batch = collator([_features(rollout) for rollout in rollouts])
    batch["positions"] = trained_positions(batch["labels"])
    batch["inputs"] = tuple(batch)
    batch["lengths"] = tuple(sum(rollout.written) for rollout in rollouts)
    batch["slots"], batch["rows"] = tuple(slots), list(rows)
    batch["finished"] = tuple(float(rollout.finished) for rollout in rollouts)
    batch["kept"] = torch.ones(len(rollouts))
    drawn = [value for rollout in rollouts for value in rollout.log_probs]
    if len(drawn) == sum(batch["lengths"]):
        batch["drawn"] = torch.tensor(drawn)
    return batch


def _features(rollout: Rollout) -> dict[str, Any]:
    labels = [token if own else IGNORED for token, own in zip(rollout.ids, rollout.written, strict=True)]
    ids = rollout.prompt + rollout.ids
    features = {"input_ids": ids, "labels": [IGNORED] * len(rollout.prompt) + labels, "seq_lens": [len(ids)]}
    return features | {"media": [rollout.media]}


def model_inputs(batch: Batch) -> Batch:
    """Return what of a batch the model is given."""
    return {name: batch[name] for name in batch["inputs"]}


def rows_of(line: Tensor, lengths: Sequence[int]) -> Tensor:
    """Return [S, T]: the tokens [N] of S completions, one a row, 0 behind its end."""
    return pad_sequence(list(line.split(list(lengths))), batch_first=True)


def line_of(rows: Tensor, lengths: Sequence[int]) -> Tensor:
    """Return [N]: the inverse of :func:`rows_of`."""
    return torch.cat([row[:length] for row, length in zip(rows, lengths, strict=True)])


def mask_of(lengths: Sequence[int], device: Any = None) -> Tensor:
    """Return [S, T], 1 at tokens."""
    return rows_of(torch.ones(sum(lengths), device=device), lengths)
