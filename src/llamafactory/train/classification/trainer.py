# SPDX-License-Identifier: Apache-2.0
"""The loss of a classifier, and how often it is right."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ...model.wrapping import beneath_adapters
from ..losses import classification
from ..sequence_scores import attach_scores
from ..trainer import Trainer


class ClassificationTrainer(Trainer):
    """Cross-entropy, binary cross-entropy or squared error: a mean over texts, however a step is cut."""

    def __init__(self, *, model: nn.Module, collator: Any, **everything: Any) -> None:
        config = beneath_adapters(model).config
        self.problem, self.classes = config.problem_type, len(config.id2label)
        collator.numbers, collator.several = config.label2id, self.problem == "multi_label_classification"
        super().__init__(model=model, collator=collator, **everything)

    def prepare_model(self, model: nn.Module) -> nn.Module:
        return attach_scores(model)

    def token_scores(self, model: nn.Module, inputs: dict[str, Any], evaluating: bool = False) -> Tensor:
        """Return logits [S, K]."""
        logits: Tensor = model(**inputs, scores=True)
        return logits

    def num_items(self, batch: dict[str, Any]) -> int:
        """Return the number of texts; a filler has none."""
        return int(batch["real"].sum())

    def loss_sums(self, scores: Tensor, inputs: dict[str, Any]) -> dict[str, Tensor]:
        real, targets = inputs["real"], inputs["targets"]
        sums = {name: (value * real).sum() for name, value in self._values(scores, targets).items()}
        if self.problem != "regression" and not torch.is_grad_enabled():  # an evaluation
            sums |= _counts(self._chosen(scores)[real], _marked(targets, self.classes)[real])
        return sums

    def _values(self, logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """What is reported of each text [S]."""
        found = logits.detach()
        if self.problem == "regression":
            error = (found - targets).abs().mean(-1)
            return {"loss": classification.regression(logits, targets), "mae": error} | _moments(found, targets)
        loss: Callable[[Tensor, Tensor], Tensor] = partial(
            classification.single_label, smoothing=self.args.label_smoothing_factor
        )
        if self.problem == "multi_label_classification":
            loss = classification.multi_label
        right = (self._chosen(found) == _marked(targets, self.classes)).all(-1)
        return {"loss": loss(logits, targets), "accuracy": right.float()}

    def _chosen(self, logits: Tensor) -> Tensor:
        """Return [S, K] bool: the classes that the model names."""
        if self.problem == "multi_label_classification":
            return logits > 0
        return _marked(logits.argmax(-1), self.classes)

    def derived(self, means: dict[str, float]) -> dict[str, float]:
        """Add F1, the mean over classes (a class that is neither there nor named counts 0), or the correlation."""
        counts = {name: means.pop(name) for name in list(means) if name.startswith(_COUNT)}
        moments = {name: means.pop(name) for name in list(means) if name.startswith(_MOMENT)}
        if counts:
            hits, all_ = ([counts[f"{_COUNT}{what}{k}"] for k in range(self.classes)] for what in ("hit", "all"))
            means["f1"] = sum(2 * hit / both if both else 0.0 for hit, both in zip(hits, all_, strict=True)) / len(hits)
        if moments:
            x, y, xx, yy, xy = (moments[f"{_MOMENT}{what}"] for what in ("x", "y", "xx", "yy", "xy"))
            spread = max(xx - x * x, 0.0) * max(yy - y * y, 0.0)
            means["pearson"] = (xy - x * y) / spread**0.5 if spread > 0 else 0.0
        return means


_COUNT, _MOMENT = "count/", "moment/"


def _marked(numbers: Tensor, classes: int) -> Tensor:
    """Return [S, K] bool of the classes [S] of texts; what has that shape stays."""
    if numbers.dim() == 2:
        return numbers > 0
    return torch.nn.functional.one_hot(numbers, classes).bool()


def _counts(chosen: Tensor, wanted: Tensor) -> dict[str, Tensor]:
    """For each class how often it was named rightly, and how often it was named plus how often it is there."""
    hits, both = (chosen & wanted).sum(0), chosen.sum(0) + wanted.sum(0)
    sums = {f"{_COUNT}hit{number}": value for number, value in enumerate(hits.unbind())}
    return sums | {f"{_COUNT}all{number}": value for number, value in enumerate(both.unbind())}


def _moments(found: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """What the correlation is computed from, of one number a text; it has none of several."""
    if found.shape[-1] != 1 or torch.is_grad_enabled():
        return {}
    x, y = found[:, 0].double(), targets[:, 0].double()
    return {
        f"{_MOMENT}{name}": value for name, value in (("x", x), ("y", y), ("xx", x * x), ("yy", y * y), ("xy", x * y))
    }
