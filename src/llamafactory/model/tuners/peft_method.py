# SPDX-License-Identifier: Apache-2.0
"""Every method of the installed PEFT by its name: ``finetuning_type: vera`` with ``peft_config: {r: 64}``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...hparams.field import arg, require, split_list

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn
    from transformers import PreTrainedModel

    from ...hparams import Dtypes, InferArgs, TrainArgs


@dataclass(frozen=True)
class Arguments:
    """Keys of every PEFT method that has no file of its own."""

    lora_target: str = arg("all", "Modules to adapt; all = every linear layer.", comma=True)
    additional_target: str | None = arg(None, "Extra fully trained modules saved with the adapter.", comma=True)
    create_new_adapter: bool = arg(False, "Merge the loaded adapters and start a fresh one.")
    peft_config: dict | None = arg(None, "Fields of PEFT's configuration of the method, by their names.")


def check(args: TrainArgs | InferArgs) -> None:
    """What PEFT knows of the method's fields, before any weight is loaded."""
    from ..adapter_config import REFUSED
    from ..peft_fields import check_given, make_config

    kind, tuner = args.finetuning.finetuning_type, args.tuner
    why = REFUSED.get(kind.upper())
    require(why is None, f"finetuning_type: {kind} cannot be trained here: {why}")
    require(bool(split_list(tuner.lora_target)), "lora_target: empty; give module names or all")
    given = tuner.peft_config or {}
    check_given(kind, given)
    make_config(
        kind, {"feedforward_modules": [], **given} if kind == "ia3" and "target_modules" not in given else given
    )


def create(
    model: PreTrainedModel,
    args: TrainArgs | InferArgs,
    dtypes: Dtypes,
    *,
    trainable: bool = True,
    new_rows: Sequence[int] = (),
) -> nn.Module:
    """Put the method's adapter on the model; for inference it is merged, or stays where no weight can hold it.

    Raises:
        ConfigError: PEFT cannot put it there, or a target is not in the model.
    """
    from ..adapters import put_adapters
    from ..peft_fields import make_config
    from ..peft_places import find_places, task_type

    kind, tuner = args.finetuning.finetuning_type, args.tuner

    def fresh(base: PreTrainedModel) -> Any:
        values = find_places(base, kind, tuner, new_rows) | (tuner.peft_config or {})
        return make_config(kind, values | {"task_type": task_type(base)})

    return put_adapters(model, args, dtypes, trainable, fresh)
