# SPDX-License-Identifier: Apache-2.0
"""Rules of the stages whose models have no language-model head."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..field import require, split_list
from ..stages import HEADS

if TYPE_CHECKING:
    from ..args import TrainArgs

_TUNERS = ("full", "freeze", "lora")


def check_training(args: TrainArgs) -> None:
    """Rules between such a stage and what the others have."""
    stage, kind, training = args.finetuning.stage, args.finetuning.finetuning_type, args.training
    if stage not in HEADS:
        return
    require(kind in _TUNERS, f"finetuning_type: stage {stage} has {', '.join(_TUNERS)}, not {kind}")
    require(args.data.overlong != "split", f"overlong: split is not for stage {stage}, which reads texts as a whole")
    require(not training.predict_with_generate, f"predict_with_generate: not in stage {stage}")
    require(not args.model.shift_attn, f"shift_attn: not in stage {stage}, whose texts are read with full attention")
    for width in split_list(args.finetuning.embedding_dims):
        require(width.isdigit() and int(width) > 0, f"embedding_dims: expected whole numbers above 0, got {width!r}")
    problem = args.data.problem_type or "single_label_classification"
    require(
        not training.label_smoothing_factor or (stage == "classification" and problem.startswith("single")),
        f"label_smoothing_factor: only for one class a row, not for {problem if stage == 'classification' else stage}",
    )
