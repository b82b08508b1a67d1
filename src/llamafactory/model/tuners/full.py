# SPDX-License-Identifier: Apache-2.0
"""Full fine-tuning: every weight is trained, with LISA a few blocks at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...hparams.derive import chosen_optimizer
from ...hparams.field import arg, require
from ...hparams.ranges import AT_LEAST_1
from ...hparams.rules.optimizer import ADAMW, require_optim

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedModel, TrainerCallback

    from ...hparams import Dtypes, InferArgs, TrainArgs


@dataclass(frozen=True)
class Arguments:
    """Keys of ``finetuning_type: full``."""

    lisa_activated_layers: int | None = arg(
        None, "LISA: train so many blocks, drawn at random, at a time; unset = all.", within=AT_LEAST_1
    )
    lisa_interval_steps: int = arg(20, "LISA: optimizer steps until others are drawn.", within=AT_LEAST_1)


def check(args: TrainArgs | InferArgs) -> None:
    """LISA drops the state of blocks that leave, which an optimizer must bear."""
    key = "lisa_activated_layers"
    sampled = args.tuner.lisa_activated_layers is not None
    require(
        sampled or args.tuner.lisa_interval_steps == Arguments().lisa_interval_steps,
        f"lisa_interval_steps: needs {key}, which is not given",
    )
    training = getattr(args, "training", None)
    if not sampled or training is None:
        return
    other = chosen_optimizer(args)  # type: ignore[arg-type]
    require(other is None, f"{key}: LISA runs AdamW on the blocks it draws, not {other}")
    require_optim(key, training.optim, (*ADAMW, "adamw_8bit", "adamw_bnb_8bit"))
    require(not args.keys.get("use_reentrant_gc"), f"{key}: not with use_reentrant_gc: true")


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


def callbacks(model: Any, args: TrainArgs) -> list[TrainerCallback]:
    """What draws the blocks of LISA."""
    tuner: Arguments = args.tuner
    if tuner.lisa_activated_layers is None:
        return []
    from ..layer_sampling import LayerSampling

    return [LayerSampling(model, tuner.lisa_activated_layers, tuner.lisa_interval_steps)]
