# SPDX-License-Identifier: Apache-2.0
"""Padded batches: rows of one sequence each for ordinary attention, and prompts for generation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from ...extras.errors import ConfigError

if TYPE_CHECKING:
    from datasets import Dataset

    from ..media.tensors import BatchMedia

IGNORED = -100


class PaddedCollator:
    """Pad rows to the longest of the batch.

    Args:
        tokenizer: Of the model.
        padding_side: Where rows are filled.
        prefix_types: The model reads the text before the first answer in both directions, and is told where it ends.
        media: Makes the tensors of images, videos and sound; ``None`` = there are none.
    """

    def __init__(
        self,
        tokenizer: Any,
        padding_side: Literal["left", "right"] = "right",
        prefix_types: bool = False,
        media: BatchMedia | None = None,
    ) -> None:
        self.pad_token_id: int = tokenizer.pad_token_id
        self.left = padding_side == "left"
        self.prefix_types = prefix_types
        self.media = media

    def __call__(self, features: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Pad features.

        Args:
            features: Rows with ``input_ids``, ``labels``, ``seq_lens`` and perhaps ``weights`` and ``media``.

        Returns:
            ``input_ids``, ``attention_mask`` (1 = token), ``labels`` (-100 = padding or context): ``[B, L]`` int64;
            ``weights``: ``[B, L]`` float32, if any row has them; with ``prefix_types`` ``token_type_ids``: ``[B, L]``,
            0 before a row's first label and 1 from there on, so that no label is seen by what stands before it; and
            what the processor makes of the media of all rows in order.

        Raises:
            ValueError: A row holds several packed sequences, which this attention would let see each other.
            ConfigError: With ``prefix_types``, a row that trains several answers; or a medium cannot be read.
        """
        if any(len(feature["seq_lens"]) != 1 for feature in features):
            raise ValueError(
                "a packed row cannot be padded: its sequences would see each other; use PaddingFreeCollator"
            )
        rows = [feature["input_ids"] for feature in features]
        batch = {
            "input_ids": pad(rows, self.pad_token_id, self.left),
            "attention_mask": pad([[1] * len(row) for row in rows], 0, self.left),
            "labels": pad([feature["labels"] for feature in features], IGNORED, self.left),
        }
        if any("weights" in feature for feature in features):
            batch["weights"] = pad([feature["weights"] for feature in features], 0.0, self.left, np.float32)
        if self.media is not None:
            batch |= self.media(rows, media_of(features), self.left)
        if self.prefix_types:
            batch["token_type_ids"] = _types_behind_the_prompt(batch["labels"] != IGNORED)
        return batch

    def check(self, rows: Dataset) -> None:
        """Look at all rows before they are trained.

        Raises:
            ConfigError: With ``prefix_types``, a row that trains several answers.
        """
        for labels in rows.with_format("numpy")["labels"] if "labels" in rows.column_names else ():
            _require_one_answer(labels != IGNORED)


class PromptCollator:
    """Pad prompts on the left, so that generation goes on from the last column.

    Args:
        tokenizer: Of the model.
        media: Makes the tensors of images, videos and sound; ``None`` = there are none.
    """

    def __init__(self, tokenizer: Any, media: BatchMedia | None = None) -> None:
        self.pad_token_id: int = tokenizer.pad_token_id
        self.media = media

    def __call__(self, features: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Return ``input_ids`` and ``attention_mask``: ``[B, L]`` int64; of rows with media what they are read from."""
        rows = [feature["input_ids"] for feature in features]
        batch = {
            "input_ids": pad(rows, self.pad_token_id, left=True),
            "attention_mask": pad([[1] * len(row) for row in rows], 0, left=True),
        }
        media = [some for feature in features for some in feature.get("media") or [[]]]
        return batch | self.media(rows, media, left=True) if self.media is not None and any(media) else batch


def _types_behind_the_prompt(trained: torch.Tensor) -> torch.Tensor:
    """0 in the prompt, 1 from the first trained token on."""
    for row in trained.numpy():
        _require_one_answer(row)
    return (trained.cumsum(1) > 0).long()


def _require_one_answer(trained: np.ndarray) -> None:
    """Refuse a row that trains several answers of a model which reads its prompt in both directions.

    When a later answer is asked for, all before it is the prompt, earlier answers too; in a row that trains these, they
    would see themselves.

    Args:
        trained: Whether each token is, ``[L]`` bool.
    """
    if np.count_nonzero(trained[1:] & ~trained[:-1]) + bool(trained[:1].any()) > 1:
        raise ConfigError(
            "this model reads the text before an answer in both directions, so a row can train one answer, and here is "
            "one that trains several; set mask_history: true (the last answer), or make a row of each"
        )


def media_of(features: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """The media of each sequence of some rows."""
    return [some for one in features for some in one.get("media") or [[]] * len(one["seq_lens"])]


def pad(rows: Sequence[Sequence[float]], value: float, left: bool, dtype: Any = np.int64) -> torch.Tensor:
    """Fill ragged rows up to the longest: ``[B, L]``."""
    filled = np.full((len(rows), max(map(len, rows))), value, dtype=dtype)
    for target, row in zip(filled, rows, strict=True):
        target[filled.shape[1] - len(row) if left else 0 :][: len(row)] = row
    return torch.from_numpy(filled)
