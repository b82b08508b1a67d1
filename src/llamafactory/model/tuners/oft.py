# SPDX-License-Identifier: Apache-2.0
"""Orthogonal fine-tuning: each linear layer's input is rotated, in blocks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial, reduce
from math import gcd
from typing import TYPE_CHECKING, Any

from ...extras.errors import ConfigError
from ...hparams.field import arg, require, split_list
from ...hparams.ranges import AT_LEAST_0, BELOW_1
from .peft_method import create_with

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn
    from transformers import PreTrainedModel

    from ...hparams import Dtypes, InferArgs, TrainArgs

_OWN = {"r": "oft_rank", "oft_block_size": "oft_block_size", "module_dropout": "module_dropout"}


@dataclass(frozen=True)
class Arguments:
    """Keys of ``finetuning_type: oft``."""

    additional_target: str | None = arg(None, "Extra fully trained modules saved with the adapter.", comma=True)
    module_dropout: float = arg(0.0, "Share of blocks that do not rotate in a step.", within=BELOW_1)
    oft_rank: int = arg(0, "Blocks in each layer; 0 = as many as oft_block_size makes.", within=AT_LEAST_0)
    oft_block_size: int = arg(32, "Size of a block; left out where oft_rank is given.", within=AT_LEAST_0)
    oft_target: str = arg("all", "Modules to adapt; all = every linear layer.", comma=True)
    create_new_adapter: bool = arg(False, "Merge the loaded adapters and start a fresh one.")
    peft_config: dict | None = arg(None, "Fields of PEFT's configuration of the method, by their names.")

    @property
    def lora_target(self) -> str:
        """What every tuner of PEFT calls it."""
        return self.oft_target


def check(args: TrainArgs | InferArgs) -> None:
    """One of number and size of the blocks says the other."""
    from ..peft_fields import check_given

    tuner: Arguments = args.tuner
    require(bool(split_list(tuner.oft_target)), "oft_target: empty; give module names or all")
    written = args.keys.get("oft_block_size")
    require(
        not (tuner.oft_rank and written),
        f"oft_rank: {tuner.oft_rank} beside oft_block_size: {written}: one says the other, give one of them",
    )
    require(
        bool(tuner.oft_rank or tuner.oft_block_size),
        "oft_block_size: 0 needs oft_rank, the number of blocks of a layer",
    )
    check_given("oft", tuner.peft_config or {}, _OWN)


def create(
    model: PreTrainedModel,
    args: TrainArgs | InferArgs,
    dtypes: Dtypes,
    *,
    trainable: bool = True,
    new_rows: Sequence[int] = (),
) -> nn.Module:
    """Put OFT adapters on the model; see :func:`~llamafactory.model.adapters.put_adapters`."""
    tuner: Arguments = args.tuner
    size = 0 if tuner.oft_rank else tuner.oft_block_size
    fields = {"r": tuner.oft_rank, "oft_block_size": size, "module_dropout": tuner.module_dropout}
    check = partial(_check_blocks, tuner)
    return create_with(model, args, dtypes, fields, trainable=trainable, new_rows=new_rows, check=check)


def _check_blocks(tuner: Arguments, base: PreTrainedModel, config: Any) -> None:
    """PEFT takes another number than the one that was asked for, where that does not divide a layer."""
    from ..peft_places import matching

    layers = matching(base, config)
    key, value = ("oft_rank", tuner.oft_rank) if tuner.oft_rank else ("oft_block_size", tuner.oft_block_size)
    widths = {name: int(layer.in_features) for name, layer in layers.items() if hasattr(layer, "in_features")}
    wrong = [name for name, width in widths.items() if width % value]
    if wrong:
        common = reduce(gcd, widths.values())
        fit = ", ".join(str(number) for number in range(2, common + 1) if common % number == 0)
        raise ConfigError(
            f"{key}: {value} does not divide the {widths[wrong[0]]} inputs of {wrong[0]}; these do: {fit}"
        )
