# SPDX-License-Identifier: Apache-2.0
"""Full fine-tuning: every weight is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedModel

    from ...hparams import Dtypes, InferArgs, TrainArgs


@dataclass(frozen=True)
class Arguments:
    """Full fine-tuning has no keys of its own."""


def check(args: TrainArgs | InferArgs) -> None:
    """Nothing can be wrong here."""


def create(
    model: PreTrainedModel,
    args: TrainArgs | InferArgs,
    dtypes: Dtypes,
    *,
    trainable: bool = True,
    new_rows: Sequence[int] = (),
) -> PreTrainedModel:
    """Mark every floating-point weight as trained."""
    if trainable:
        model.requires_grad_(True)
    return model
