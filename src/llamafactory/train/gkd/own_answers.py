# SPDX-License-Identifier: Apache-2.0
"""Rows whose last answer is the student's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...data.processor import IGNORED
from ...extras.errors import ConfigError
from ..batching.batches import Collate
from ..rl.rollouts.rollout import Engine, Request, seed_of

_WHOLE = 1 << 56  # seeds lie below it


class OwnAnswers:
    """Puts answers of the student in the place of a share of the given ones.

    Which rows, and what is drawn, depends on the seed, the optimizer step and the row alone: not on how the step is cut
    into micro-batches or ranks, nor on a resume.

    Args:
        engine: Draws.
        share: Of rows.
        limit: Most tokens of an answer.
        collator: Rows -> batch.
        seed: Of the run.
    """

    def __init__(
        self, engine: Engine, share: float, limit: int, collator: Callable[..., dict[str, Any]], seed: int
    ) -> None:
        self.engine, self.share, self.limit, self.seed = engine, share, limit, seed
        self.collate = Collate(collator)

    def replace(self, batches: list[dict[str, Any]], dataset: Any, step: int) -> list[dict[str, Any]]:
        """Return the micro-batches of optimizer step ``step``; all ranks call this together."""
        rows = {row: dict(dataset[row]) for batch in batches for row in batch["rows"] if self._is_chosen(step, row)}
        if any(any(features.get("media") or ()) for features in rows.values()):
            raise ConfigError("gkd_lambda: rows with images, videos or sound cannot be answered; set it to 0")
        prompts = {row: prompt_of(features) for row, features in rows.items()}
        requests = [
            Request(prompt, seed_of(self.seed, "answer", step, row), 0, self.limit) for row, prompt in prompts.items()
        ]
        self.engine.sync()
        drawn = self.engine.generate(requests, greedy=False)
        answers = {row: one.ids for row, one in zip(rows, drawn, strict=True)}
        for row, features in rows.items():
            ids = prompts[row] + answers[row]
            labels = [IGNORED] * len(prompts[row]) + answers[row]
            features |= {"input_ids": ids, "labels": labels, "seq_lens": [len(ids)]}
            if "weights" in features:
                features["weights"] = [float(label != IGNORED) for label in labels]
        return [self._again(batch, rows, dataset) if rows.keys() & set(batch["rows"]) else batch for batch in batches]

    def _is_chosen(self, step: int, row: int) -> bool:
        return seed_of(self.seed, "own", step, row) < self.share * _WHOLE

    def _again(self, batch: dict[str, Any], made: dict[int, Any], dataset: Any) -> dict[str, Any]:
        return self.collate([{**made.get(row, dataset[row]), "index": row} for row in batch["rows"]])


def prompt_of(features: dict[str, Any]) -> list[int]:
    """Return the ids before a row's last answer: before its last stretch of trained tokens."""
    labels = list(features["labels"])
    end = max(place for place, label in enumerate(labels) if label != IGNORED)
    start = next((place + 1 for place in range(end, -1, -1) if labels[place] == IGNORED), 1)
    return list(features["input_ids"])[:start]
