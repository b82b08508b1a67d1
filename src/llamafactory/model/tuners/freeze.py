# SPDX-License-Identifier: Apache-2.0
"""Freeze tuning: only some blocks, some modules of them, what a pattern names, or what Spectrum finds is trained."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...extras.errors import ConfigError
from ...extras.logging import get_logger
from ...hparams.field import arg, require, split_list
from ...hparams.ranges import PART
from ..heads import SCORE_NAMES

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from transformers import PreTrainedModel

    from ...hparams import Dtypes, InferArgs, TrainArgs

logger = get_logger(__name__)

_BLOCK = re.compile(r"(?:^|\.)(?:layers|h|blocks|encoder\.layer)\.(\d+)\.([^.]+)")


@dataclass(frozen=True)
class Arguments:
    """Keys of ``finetuning_type: freeze``."""

    freeze_trainable_layers: int = arg(
        2, "Train the last n (n>0) or first n (n<0) blocks; also block count for LLaMA-Pro."
    )
    freeze_trainable_modules: str = arg("all", "Submodules trained in those blocks (all or list).", comma=True)
    freeze_extra_modules: str | None = arg(None, "Modules outside blocks to train as well.", comma=True)
    freeze_trainable_pattern: str | None = arg(
        None, "Train what this regular expression matches instead: whole names of modules or weights."
    )
    spectrum_top_fraction: float | None = arg(
        None, "Spectrum: train the linear layers of this share with the highest signal-to-noise ratio.", within=PART
    )


def check(args: TrainArgs | InferArgs) -> None:
    """One way of choosing, which must select something."""
    tuner: Arguments = args.tuner
    _check_choice(args)
    require(tuner.freeze_trainable_layers != 0, "freeze_trainable_layers: 0 trains nothing; give n > 0 or n < 0")
    require(bool(split_list(tuner.freeze_trainable_modules)), "freeze_trainable_modules: empty; give names or all")


def _check_choice(args: TrainArgs | InferArgs) -> None:
    """A pattern says all; Spectrum says which layers of blocks, and leaves the modules outside to their key."""
    tuner: Arguments = args.tuner
    pattern, spectrum = tuner.freeze_trainable_pattern, tuner.spectrum_top_fraction
    beside = ["freeze_trainable_layers", "freeze_trainable_modules"]
    if pattern is not None:
        beside += ["freeze_extra_modules", "spectrum_top_fraction"]
        require(bool(pattern), "freeze_trainable_pattern: empty; give a regular expression, or leave it out")
        try:
            re.compile(pattern)
        except re.error as error:
            raise ConfigError(f"freeze_trainable_pattern: {pattern!r} is no regular expression: {error}") from error
    require(
        spectrum is None or not args.model.train_from_scratch,
        "spectrum_top_fraction: random weights of train_from_scratch hold no signal",
    )
    chosen = "freeze_trainable_pattern" if pattern is not None else "spectrum_top_fraction"
    if pattern is not None or spectrum is not None:
        given = [key for key in beside if getattr(tuner, key) != getattr(Arguments(), key)]
        given += ["use_llama_pro"] * args.finetuning.use_llama_pro
        require(not given, f"{' and '.join(given)}: not with {chosen}, which says itself what is trained")


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
    trained = _trained_names(model, args) | _whole_parts(model)

    import torch

    dtype = getattr(torch, dtypes.trainable)
    for name, parameter in model.named_parameters():
        chosen = name in trained or name.startswith(tuple(f"{head}." for head in SCORE_NAMES))
        parameter.requires_grad_(chosen)
        if chosen:
            parameter.data = parameter.data.to(dtype)
    if new_rows and not model.get_input_embeddings().weight.requires_grad:
        key = "freeze_extra_modules" if args.tuner.freeze_trainable_pattern is None else "freeze_trainable_pattern"
        logger.warning_rank0(f"New tokens keep their first embedding: {key} does not name embed_tokens")
    return model


def _whole_parts(model: PreTrainedModel) -> set[str]:
    """Names of the weights of towers and projector that are not frozen: blocks are chosen in the language model."""
    from ..towers import by_part, frozen_modules

    frozen = re.compile(frozen_modules(model) or "(?!)")
    parts = by_part(model)
    beside = [name for part in ("vision tower", "projector") for name in parts.get(part, {})]
    return {name for name in beside if not frozen.fullmatch(name)}


def _trained_names(model: PreTrainedModel, args: TrainArgs | InferArgs) -> set[str]:
    """Names of the weights that are trained, by the one way of choosing that is asked for."""
    tuner: Arguments = args.tuner
    if tuner.freeze_trainable_pattern is not None:
        return matching(model, tuner.freeze_trainable_pattern)
    names = [name for name, _ in model.named_parameters()]
    inner, outer = _module_names(names)
    extra = split_list(tuner.freeze_extra_modules)
    _require_known("freeze_extra_modules", extra, outer)
    outside = {name for name in names if not _BLOCK.search(name) and set(name.split(".")[:-1]) & set(extra)}
    if tuner.spectrum_top_fraction is not None:
        from ..spectrum import highest_layers

        return outside | highest_layers(model, tuner.spectrum_top_fraction, args.model)
    number = model.config.get_text_config().num_hidden_layers
    blocks: Sequence[int] = _chosen_blocks(tuner.freeze_trainable_layers, number)
    if args.finetuning.use_llama_pro:
        from ..block_expansion import expanded_blocks

        blocks = expanded_blocks(model.config, tuner.freeze_trainable_layers, number)
    modules = split_list(tuner.freeze_trainable_modules)
    _require_known("freeze_trainable_modules", modules, {"all", *inner})
    found = [(name, _BLOCK.search(name)) for name in names]
    return outside | {
        name for name, block in found if block and int(block[1]) in blocks and ("all" in modules or block[2] in modules)
    }


def matching(model: PreTrainedModel, pattern: str) -> set[str]:
    """Names of the weights whose own name, or that of a module they are in, the pattern matches from end to end.

    Raises:
        ConfigError: It matches none; the line lists what there is, block numbers as ``N``.
    """
    expression = re.compile(pattern)
    names = [name for name, _ in model.named_parameters()]
    found = {name for name in names if any(expression.fullmatch(part) for part in _with_parents(name))}
    if not found:
        there = sorted({re.sub(r"\d+", "N", name) for name in names})
        raise ConfigError(
            f"freeze_trainable_pattern: {pattern!r} matches no whole name of a module or weight; there are "
            f"{', '.join(there)}"
        )
    return found


def _with_parents(name: str) -> Iterable[str]:
    parts = name.split(".")
    return (".".join(parts[:end]) for end in range(1, len(parts) + 1))


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
