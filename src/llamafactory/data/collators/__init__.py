# SPDX-License-Identifier: Apache-2.0
"""Features to tensors. Names are resolved on use, so that importing the room costs no torch."""

from __future__ import annotations

from ...extras.lazy import exports

__getattr__ = exports(
    __name__,
    {
        "PaddingFreeCollator": "padding_free",
        "PaddedCollator": "padded",
        "PromptCollator": "padded",
        "PairCollator": "completions",
        "FeedbackCollator": "completions",
        "ClassificationCollator": "classification",
        "EmbeddingCollator": "documents",
        "RankingCollator": "documents",
    },
)
