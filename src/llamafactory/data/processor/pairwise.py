# SPDX-License-Identifier: Apache-2.0
"""Features of preference pairs: the chosen completion and the rejected one, each after the same prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ...extras.errors import ConfigError
from .base import OF_HEADS
from .completions import Completion, CompletionsProcessor, require_completion

if TYPE_CHECKING:
    from ..messages import Sample


class PairwiseProcessor(CompletionsProcessor):
    """A row is two sequences, the chosen one first, and ``margin``: [m] or [0]."""

    name = "pairwise"
    columns = (*CompletionsProcessor.columns, "margin")
    must_differ = True
    unused = ("kto_tag", "weights", *OF_HEADS)

    def completions(self, samples: Sequence[Sample]) -> list[tuple[Completion, Completion]]:
        """Raises ConfigError for a row with no pair, an empty completion, or two equal ones."""
        return [_pair(sample) for sample in samples]

    def extra(self, sample: Sample) -> dict[str, Any]:
        """By how much the chosen completion is the better one."""
        return {"margin": [sample.margin or 0.0]}


def _pair(sample: Sample) -> tuple[Completion, Completion]:
    if sample.chosen is None or sample.rejected is None:
        raise ConfigError(
            f"{sample.origin}: no pair of answers; set ranking: true and the columns chosen and rejected "
            "in dataset_info.json"
        )
    require_completion(sample.chosen, "the chosen answer", sample)
    require_completion(sample.rejected, "the rejected answer", sample)
    if sample.chosen == sample.rejected:
        raise ConfigError(f"{sample.origin}: chosen and rejected are the same answer")
    return sample.chosen, sample.rejected
