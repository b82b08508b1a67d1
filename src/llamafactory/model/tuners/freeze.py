# SPDX-License-Identifier: Apache-2.0
"""Freeze tuning: only some blocks, or some modules of them, are trained."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...extras.errors import ConfigError
from ...extras.logging import get_logger
from ...hparams.field import arg, require, split_list

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from transformers import PreTrainedModel

    from ...hparams import Dtypes, InferArgs, TrainArgs

logger = get_logger(__name__)

_BLOCK = re.compile(r"\.(?:layers|h|blocks)\.(\d+)\.([^.]+)")


@dataclass(frozen=True)
class Arguments:
    """Keys of ``finetuning_type: freeze``."""

    freeze_trainable_layers: int = arg(
        2, "Train the last n (n>0) or first n (n<0) blocks; also block count for LLaMA-Pro."
    )
    freeze_trainable_modules: str = arg("all", "Submodules trained in those blocks (all or list).", comma=True)
    freeze_extra_modules: str | None = arg(None, "Modules outside blocks to train as well.", comma=True)


def check(args: TrainArgs | InferArgs) -> None:
    """The number of layers must select something."""
    tuner = args.tuner
    require(tuner.freeze_trainable_layers != 0, "freeze_trainable_layers: 0 trains nothing; give n > 0 or n < 0")
    require(bool(split_list(tuner.freeze_trainable_modules)), "freeze_trainable_modules: empty; give names or all")


def create(
    model: PreTrainedModel,
    args: TrainArgs | InferArgs,
    dtypes: Dtypes,
    *,
    trainable: bool = True,
    new_rows: Sequence[int] = (),
) -> PreTrainedModel:
    """Train the chosen modules of the chosen blocks, in the trainable dtype; freeze the rest.

    Raises:
        ConfigError: More blocks are asked for than there are, or a name that no block (or no outside module) has.
    """
    if not trainable:
        return model
    tuner: Arguments = args.tuner
    number = model.config.get_text_config().num_hidden_layers
    blocks: Sequence[int] = _chosen_blocks(tuner.freeze_trainable_layers, number)
    if args.finetuning.use_llama_pro:
        from ..block_expansion import expanded_blocks

        blocks = expanded_blocks(model.config, tuner.freeze_trainable_layers, number)
    names = [name for name, _ in model.named_parameters()]
    inner, outer = _module_names(names)
    modules = split_list(tuner.freeze_trainable_modules)
    extra = split_list(tuner.freeze_extra_modules)
    _require_known("freeze_trainable_modules", modules, {"all", *inner})
    _require_known("freeze_extra_modules", extra, outer)

    import torch

    dtype = getattr(torch, dtypes.trainable)
    for name, parameter in model.named_parameters():
        block = _BLOCK.search(name)
        if block:
            chosen = int(block[1]) in blocks and ("all" in modules or block[2] in modules)
        else:
            chosen = any(module in extra for module in name.split(".")[:-1]) or name.startswith("score.")  # reward head
        parameter.requires_grad_(chosen)
        if chosen:
            parameter.data = parameter.data.to(dtype)
    if new_rows and "embed_tokens" not in extra:
        logger.warning_rank0("New tokens keep their first embedding: freeze_extra_modules does not name embed_tokens")
    return model


def _chosen_blocks(layers: int, blocks: int) -> range:
    if abs(layers) > blocks:
        raise ConfigError(f"freeze_trainable_layers: {layers} asked, the model has {blocks} blocks")
    return range(blocks - layers, blocks) if layers > 0 else range(-layers)


def _module_names(parameters: Iterable[str]) -> tuple[set[str], set[str]]:
    """Names of the direct children of blocks, and of the modules outside blocks."""
    inner, outer = set(), set()
    for name in parameters:
        block = _BLOCK.search(name)
        if block:
            inner.add(block[2])
        else:
            outer.add(name.split(".")[-2])
    return inner, outer


def _require_known(key: str, names: list[str], choices: set[str]) -> None:
    wrong = [name for name in names if name not in choices]
    if wrong:
        raise ConfigError(f"{key}: {', '.join(wrong)} not found; choose from {', '.join(sorted(choices))}")
