# SPDX-License-Identifier: Apache-2.0
"""The parts of a model that takes media: which of them are trained, and that the others stay as they are."""

from __future__ import annotations

import re
from collections.abc import Iterator
from types import MethodType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from ..extras.errors import ConfigError
from .config import takes_media
from .families.parts import PARTS, Part, known_layout, pattern_of
from .heads import score_layer
from .wrapping import beneath_adapters

if TYPE_CHECKING:
    from ..hparams.finetuning_args import FinetuningArguments

_TRAINED_WHOLE = ".modules_to_save."  # a copy that additional_target asks for, by name


def part_patterns(model: Any) -> dict[Part, str]:
    """Regular expressions of the modules of each part, by their full names; empty for a model of text.

    Of a family whose layout is not known, only the language model can be told from the rest, which counts as tower.
    """
    if not takes_media(model.config):
        return {}
    layout = known_layout(model.config)
    if layout is not None:
        return {part: pattern_of(layout, part, model.base_model_prefix) for part in PARTS}
    if score_layer(model) is not None:
        return {}
    language, head = model.get_decoder(), model.get_output_embeddings()
    names = {module: name for name, module in model.named_modules()}
    found = [re.escape(names[module]) for module in (language, head) if module is not None]
    inside = rf"({'|'.join(found)})(\..*)?"
    return {"vision tower": rf"(?!({inside})$).*", "projector": "(?!)", "language model": inside}


def outside_language(model: Any) -> str | None:
    """A regular expression of the modules beside the language model and its head; ``None`` for models of text."""
    return _joined(model, {"vision tower", "projector"})


def frozen_modules(model: Any) -> str | None:
    """A regular expression of the modules that no tuner may act on; ``None`` for models of text."""
    return _joined(model, _frozen(model))


def _joined(model: Any, parts: set[Part]) -> str | None:
    patterns = part_patterns(model)
    return "|".join(patterns[part] for part in PARTS if part in parts) or "(?!)" if patterns else None


def _frozen(model: Any) -> set[Part]:
    frozen: set[Part] = getattr(model, "frozen_parts", {"vision tower", "projector"})
    return frozen


def _switches(asked: FinetuningArguments) -> dict[str, tuple[Part, bool, bool]]:
    """Key → the part it is about, whether that is frozen, and what is so by default."""
    return {
        "freeze_vision_tower": ("vision tower", asked.freeze_vision_tower, True),
        "freeze_multi_modal_projector": ("projector", asked.freeze_multi_modal_projector, True),
        "freeze_language_model": ("language model", asked.freeze_language_model, False),
    }


def _rates(asked: FinetuningArguments) -> dict[str, tuple[Part, float]]:
    """Keys of learning rates that are given → the part they are about, and the rate."""
    rates: dict[str, tuple[Part, float | None]] = {
        "vision_tower_lr": ("vision tower", asked.vision_tower_lr),
        "projector_lr": ("projector", asked.projector_lr),
    }
    return {key: (part, rate) for key, (part, rate) in rates.items() if rate is not None}


def settle_parts(model: Any, asked: FinetuningArguments) -> None:
    """Note on a base model which of its parts stay as they are.

    Raises:
        ConfigError: A key is about a part that this model does not have, or none is left to train.
    """
    switches, rates = _switches(asked), _rates(asked)
    keys = [key for key, (_, value, default) in switches.items() if value != default] + [*rates]
    if not keys:
        return
    name = model.config.model_type
    if not takes_media(model.config):
        raise ConfigError(f"{keys[0]}: models of type {name} take text alone; leave it out")
    if known_layout(model.config) is None:
        raise ConfigError(f"{keys[0]}: which modules of a {name} model are its towers and projector is not known here")
    frozen = {part: key for key, (part, value, _) in switches.items() if value}
    if len(frozen) == len(PARTS):
        raise ConfigError(f"{', '.join(switches)}: all true leaves nothing to train")
    for key, (part, _) in rates.items():
        if part in frozen:
            raise ConfigError(f"{key}: the {part} is frozen; set {frozen[part]}: false, or leave {key} out")
    model.frozen_parts = set(frozen)


def by_part(model: nn.Module) -> dict[Part, dict[str, nn.Parameter]]:
    """Parameters of a model, adapters around it or not, by part and name; empty for models of text."""
    core = beneath_adapters(model)
    patterns = {part: re.compile(pattern) for part, pattern in part_patterns(core).items()}
    found: dict[Part, dict[str, nn.Parameter]] = {part: {} for part in patterns}
    for name, parameter in core.named_parameters():
        for part, pattern in patterns.items():
            if pattern.fullmatch(_without_adapters(name)):
                found[part][name] = parameter
                break
    return found


def _without_adapters(name: str) -> str:
    """The name of a weight as if no adapter were there, whose layers stand inside the layer they adapt."""
    return name.replace(".base_layer.", ".").replace(".original_module.", ".")


def freeze_parts(model: nn.Module) -> None:
    """Take frozen parts out of training, and keep them in evaluation mode: some have statistics that would move.

    What ``additional_target`` names is trained although it lies in such a part.
    """
    core = beneath_adapters(model)
    for part, parameters in by_part(model).items():
        if part in _frozen(core):
            for name, parameter in parameters.items():
                if _TRAINED_WHOLE not in name:
                    parameter.requires_grad_(False)
    for module in _still_modules(core):
        module.train = MethodType(_stay_still, module)
        module.eval()


def _still_modules(core: Any) -> Iterator[nn.Module]:
    """The largest modules of frozen parts in which nothing is trained."""
    pattern = frozen_modules(core)
    if pattern is None:
        return
    taken = ""
    for name, module in core.named_modules():
        if not name or (taken and name.startswith(taken)) or not re.fullmatch(pattern, name):
            continue
        inner = [f"{name}.{below}" if below else name for below, _ in module.named_modules()]
        whole = all(re.fullmatch(pattern, one) for one in inner)
        if whole and not any(parameter.requires_grad for parameter in module.parameters()):
            taken = f"{name}."
            yield module


def _stay_still(module: nn.Module, mode: bool = True) -> nn.Module:
    return nn.Module.train(module, False)


def rates_of_parts(model: nn.Module, asked: FinetuningArguments) -> dict[float, list[nn.Parameter]]:
    """Which trained weights have a learning rate of their own."""
    rates: dict[float, list[nn.Parameter]] = {}
    for part, rate in _rates(asked).values():
        rates.setdefault(rate, []).extend(one for one in by_part(model)[part].values() if one.requires_grad)
    return rates


def nothing_of_idle_parts(core: nn.Module) -> Tensor | None:
    """Zero, with a gradient of zeros for each trained weight of towers and projector; ``None``: there is none.

    Processes that hold parts of a model add up gradients of all weights together, those of one that had no media too.
    """
    parts = by_part(core)
    trained = [
        one for part in ("vision tower", "projector") for one in parts.get(part, {}).values() if one.requires_grad
    ]
    return sum((one.sum() for one in trained), start=torch.zeros((), device=trained[0].device)) * 0 if trained else None


def part_lines(model: nn.Module) -> list[str]:
    """What is trained of each part, a line each: ``vision tower: 0 of 1,234 parameters are trained (frozen)``."""
    lines = []
    for part, parameters in by_part(model).items():
        total = sum(one.numel() for one in parameters.values())
        trained = sum(one.numel() for one in parameters.values() if one.requires_grad)
        lines.append(f"{part}: {trained:,} of {total:,} parameters are trained{'' if trained else ' (frozen)'}")
    return lines


def still_tensors(model: nn.Module) -> dict[Part, dict[str, Tensor]]:
    """What must not change in training, by part: weights without gradient, and buffers of parts with none trained."""
    core = beneath_adapters(model)
    found: dict[Part, dict[str, Tensor]] = {}
    patterns = part_patterns(core)
    for part, parameters in by_part(model).items():
        if part not in _frozen(core):
            continue
        still: dict[str, Tensor] = {name: one for name, one in parameters.items() if not one.requires_grad}
        if len(still) == len(parameters):
            pattern = re.compile(patterns[part])
            still |= {name: one for name, one in core.named_buffers() if pattern.fullmatch(name)}
        found[part] = still
    return found


@torch.no_grad()
def fingerprint(tensor: Tensor) -> tuple[int, int]:
    """Two figures of a tensor's bits that a change of its values moves."""
    local = tensor.to_local() if isinstance(tensor, DTensor) else tensor.detach()
    flat = local.contiguous().flatten().view(torch.uint8)
    step = 1 << 22
    total = mixed = 0
    for start in range(0, flat.numel(), step):
        piece = flat[start : start + step].to(torch.int64)
        places = torch.arange(start, start + piece.numel(), device=piece.device) % 65521
        total += int(piece.sum())
        mixed += int((piece * places).sum())
    return total, mixed
