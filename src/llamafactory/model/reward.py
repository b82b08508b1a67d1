# SPDX-License-Identifier: Apache-2.0
"""Scores of whole texts by a reward model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from .whole import require_finite

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_ROWS = 8


@torch.inference_mode()
def score_texts(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str | tuple[str, str]],
    max_length: int | None = None,
) -> list[float]:
    """Return the reward of each text, taken at its last token.

    Args:
        model: From ``load_model(head="reward")``.
        tokenizer: The model's own; pads on the right.
        texts: Whole texts, special tokens included; or pairs of a query and a document.
        max_length: Most tokens of a text; what is beyond is cut off.

    Raises:
        ModelFault: A score is no number.
    """
    limits = {"truncation": max_length is not None, "max_length": max_length}
    read = [tokenizer(*((text,) if isinstance(text, str) else text), **limits) for text in texts]
    ids = [one["input_ids"] for one in read]
    order = sorted(range(len(ids)), key=lambda place: len(ids[place]))  # rows of like length share a batch
    scores = [0.0] * len(ids)
    for start in range(0, len(order), _ROWS):
        places = order[start : start + _ROWS]
        batch = tokenizer.pad(
            {name: [read[place][name] for place in places] for name in read[places[0]]},
            return_tensors="pt",
            padding_side="right",
        )
        found = model(**batch.to(model.device), use_cache=False).logits[:, 0].float()
        require_finite(found, "scores")
        for place, score in zip(places, found.tolist(), strict=True):
            scores[place] = score
    return scores
