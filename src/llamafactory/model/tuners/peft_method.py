# SPDX-License-Identifier: Apache-2.0
"""Every method of the installed PEFT by its name: ``finetuning_type: vera`` with ``peft_config: {r: 64}``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...hparams.field import arg, require, split_list

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

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

    kind = args.finetuning.finetuning_type
    why = REFUSED.get(kind.upper())
    require(why is None, f"finetuning_type: {kind} cannot be trained here: {why}")
    given = args.tuner.peft_config or {}
    # IA3 wants its layers of the MLP to be among its targets, which are found later.
    later: dict[str, Any] = {"feedforward_modules": None} if kind == "ia3" and "target_modules" not in given else {}
    check_fields(args, later)


def check_fields(args: TrainArgs | InferArgs, later: dict[str, Any], own: dict[str, str] | None = None) -> None:
    """Check ``peft_config``.

    Args:
        args: The run's.
        later: Fields as they are until the model is there.
        own: Fields that have a key of their own -> this key.
    """
    from ..peft_fields import check_given, make_config

    kind, tuner = args.finetuning.finetuning_type, args.tuner
    require(bool(split_list(tuner.lora_target)), "lora_target: empty; give module names or all")
    given = tuner.peft_config or {}
    check_given(kind, given, own)
    make_config(kind, given | later)


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
    return create_with(model, args, dtypes, {}, trainable=trainable, new_rows=new_rows)


def create_with(
    model: PreTrainedModel,
    args: TrainArgs | InferArgs,
    dtypes: Dtypes,
    fields: dict[str, Any],
    *,
    trainable: bool,
    new_rows: Sequence[int],
    check: Callable[[Any, Any], None] = lambda base, config: None,
) -> nn.Module:
    """The same with fields that the method needs and the user does not give; ``check`` sees base and configuration."""
    from ..adapters import put_adapters
    from ..peft_fields import make_config
    from ..peft_places import find_places, task_type

    kind, tuner = args.finetuning.finetuning_type, args.tuner

    def fresh(base: PreTrainedModel) -> Any:
        values = find_places(base, kind, tuner, new_rows) | (tuner.peft_config or {}) | fields
        config = make_config(kind, values | {"task_type": task_type(base)})
        check(base, config)
        return config

    return put_adapters(model, args, dtypes, trainable, fresh)
