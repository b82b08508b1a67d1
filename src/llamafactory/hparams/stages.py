# SPDX-License-Identifier: Apache-2.0
"""Stages whose models have no language-model head, and what they are instead."""

from __future__ import annotations

from ..extras.errors import ConfigError

# Stage -> what is loaded for it.
WITHOUT_TEXT: dict[str, str] = {
    "rm": "a reward model, which scores texts",
    "classification": "a classifier, which scores texts",
    "embedding": "an embedding model, which makes vectors of texts",
    "reranker": "a reranker, which scores documents",
}


HEADS = ("classification", "embedding", "reranker")  # of these, those that came with a head of their own


def require_text(stage: str) -> None:
    """Refuse a stage whose model writes no text.

    Raises:
        ConfigError: It does not answer.
    """
    if stage in WITHOUT_TEXT:
        raise ConfigError(f"stage: {stage} loads {WITHOUT_TEXT[stage]} and does not answer")
