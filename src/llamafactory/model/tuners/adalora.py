# SPDX-License-Identifier: Apache-2.0
"""AdaLoRA: ranks begin at ``init_r`` and are given up where they matter least, until ``target_r`` is their mean."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...hparams.field import require
from . import peft_method
from .peft_method import Arguments, create_with

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn
    from transformers import PreTrainedModel, TrainerCallback

    from ...hparams import Dtypes, InferArgs, TrainArgs

__all__ = ["Arguments", "callbacks", "check", "create"]

_LENGTH = 1 << 40  # stands in until the run knows its steps
_NOT_FIELDS = {
    "r": "peft_config: {init_r, target_r}",
    "rank_pattern": "peft_config: {init_r, target_r}",
    **dict.fromkeys(("use_dora", "loftq_config", "trainable_token_indices"), "finetuning_type: lora"),
}


def check(args: TrainArgs | InferArgs) -> None:
    """A schedule that has something to give away, and a loss that its penalty can be added to."""
    given = args.tuner.peft_config or {}
    peft_method.check_fields(args, {"total_step": _LENGTH}, _NOT_FIELDS)
    first, last = given.get("init_r", 12), given.get("target_r", 8)
    require(first > last >= 1, f"peft_config: init_r: {first} must be above target_r: {last}, which must be 1 or more")
    for name in ("tinit", "tfinal"):
        require(given.get(name, 0) >= 0, f"peft_config: {name}: {given.get(name)}, expected 0 or more steps")
    require(given.get("deltaT", 1) >= 1, f"peft_config: deltaT: {given.get('deltaT')}, expected 1 or more steps")
    for name in ("beta1", "beta2"):
        value = given.get(name, 0.85)
        require(0 < value < 1, f"peft_config: {name}: {value}, expected a number between 0 and 1")
    stage = args.finetuning.stage
    require(
        stage in ("pt", "sft") or given.get("orth_reg_weight") == 0,
        f"finetuning_type: adalora keeps its factors orthogonal in the loss of stages pt and sft, not of {stage}; set "
        "peft_config: {orth_reg_weight: 0}",
    )
    training = getattr(args, "training", None)
    require(
        training is None or not args.data.streaming or training.max_steps > 0,
        "max_steps: missing; finetuning_type adalora gives ranks away over all steps, which a stream only estimates",
    )
    last_adapter = bool(args.model.adapter_name_or_path) and not args.tuner.create_new_adapter
    require(
        not (last_adapter and hasattr(args, "training")),
        "adapter_name_or_path: the ranks of an AdaLoRA adapter are given away, it is not trained on; set "
        "create_new_adapter: true, which merges it first",
    )


def create(
    model: PreTrainedModel,
    args: TrainArgs | InferArgs,
    dtypes: Dtypes,
    *,
    trainable: bool = True,
    new_rows: Sequence[int] = (),
) -> nn.Module:
    """Put AdaLoRA adapters on the model; the penalty on their factors is added to the loss."""
    from ..rank_schedule import add_penalty

    tuned = create_with(model, args, dtypes, {"total_step": _LENGTH}, trainable=trainable, new_rows=new_rows)
    if trainable:
        add_penalty(tuned)
    return tuned


def callbacks(model: Any, args: TrainArgs) -> list[TrainerCallback]:
    """What gives the ranks away, step by step."""
    from ..rank_schedule import RankSchedule

    return [RankSchedule(model)]
