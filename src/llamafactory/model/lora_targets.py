# SPDX-License-Identifier: Apache-2.0
"""What ``lora_target`` names: linear layers, embeddings, and the fused experts of a mixture."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import nn
from torch.nn.modules.conv import _ConvNd

from ..extras.errors import ConfigError, first_line
from ..extras.logging import get_logger
from .heads import score_layer
from .towers import frozen_modules

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel
    from transformers import PreTrainedModel

logger = get_logger(__name__)

# Names of single experts' layers → of the parameter that holds them all.
_FUSED = {"gate_proj": "gate_up_proj", "up_proj": "gate_up_proj", "w1": "gate_up_proj", "w3": "gate_up_proj",
          "w2": "down_proj"}  # fmt: skip


class Targets(NamedTuple):
    """What PEFT calls ``target_modules`` and ``target_parameters``."""

    modules: list[str]
    parameters: list[str]


def find_targets(model: PreTrainedModel, names: list[str], with_experts: bool) -> Targets:
    """Find what the user named.

    Args:
        model: The base.
        names: From ``lora_target``; ``["all"]`` is every linear layer but the output head, and the experts.
        with_experts: Whether the adapter can act on fused experts (not with dropout, DoRA or PiSSA).

    Raises:
        ConfigError: A name that the model does not have, or experts that cannot be adapted so.
    """
    linear, experts = _linear(model), _experts(model)
    if names == ["all"]:
        targets = Targets(sorted(linear), experts if with_experts else [])
    else:
        targets = _named(model, names, linear, experts)
    if targets.parameters and not with_experts:
        raise ConfigError(
            f"lora_target: {', '.join(targets.parameters)} are fused experts, whose adapters take neither lora_dropout "
            "nor use_dora nor pissa_init"
        )
    return Targets(_kept_by_peft(model, targets.modules) if targets.parameters else targets.modules, targets.parameters)


def excluded(model: PreTrainedModel, names: list[str]) -> str | None:
    """A regular expression of modules that are left alone although their names fit; ``None``: there are none.

    Frozen parts, and where ``lora_target`` says ``all``, the patch embeddings of towers, which are no linear layers.
    """
    frozen = frozen_modules(model)
    if frozen is None or names != ["all"]:
        return frozen
    convolutions = [name for name, module in model.named_modules() if isinstance(module, _ConvNd)]
    return "|".join([frozen, *map(re.escape, convolutions)])


# The two copies of a module that additional_target names (PEFT adds a tied head by itself).
_TRAINED_WHOLE = re.compile(r"\.?\b(original_module|modules_to_save)(\.|$)")


def report_share(model: PeftModel, lora_target: str) -> None:
    """Say what ``lora_target: all`` leaves out of the weights that an adapter could act on."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    if lora_target != "all":
        return
    core: Any = model.get_base_model()
    head = _head(core)
    outside = _outside(core)
    taken = left = 0
    names = set()
    for name, module in core.named_modules():
        if module is head or outside.fullmatch(name) or _TRAINED_WHOLE.search(name):
            continue
        if isinstance(module, BaseTunerLayer) and not isinstance(module.base_layer, BaseTunerLayer):
            taken += sum(weight.numel() for weight in module.base_layer.parameters(recurse=False) if weight.ndim > 1)
        elif (isinstance(module, nn.Linear) or "experts" in name.rpartition(".")[2]) and "base_layer" not in name:
            weights = [weight for weight in module.parameters(recurse=False) if weight.ndim > 1]
            if weights and ".lora_" not in name:
                left += sum(weight.numel() for weight in weights)
                names.add(re.sub(r"\.\d+\.", ".N.", name))
    if left:
        logger.warning_rank0(
            "lora_target: all takes %.0f%% of the weights it could; without an adapter: %s (lora_target names modules; "
            "experts take no lora_dropout, use_dora or pissa_init)",
            100 * taken / (taken + left),
            ", ".join(sorted(names)[:4]),
        )


def _named(model: PreTrainedModel, names: list[str], linear: set[str], experts: list[str]) -> Targets:
    parameters = {path: path.rpartition(".")[2] for path in experts}
    for path, leaf in parameters.items():
        parts = {name for name, whole in _FUSED.items() if whole == leaf and name in names}
        if leaf == "gate_up_proj" and len(parts) == 1:
            raise ConfigError(
                f"lora_target: {parts.pop()}: this model keeps it in one parameter with its pair, {path}; name both"
            )
    wanted = {
        name: [p for p, leaf in parameters.items() if name in (leaf, p) or _FUSED.get(name) == leaf] for name in names
    }
    embeddings = {name.rsplit(".", 1)[-1] for name, module in model.named_modules() if isinstance(module, nn.Embedding)}
    everything = [name for name, _ in model.named_modules()]
    there = {name for name in names if any(f".{module}".endswith(f".{name}") for module in everything)}
    unknown = [name for name in names if name not in there and not wanted[name]]
    require_known("lora_target", unknown, linear | embeddings | set(experts))
    return Targets(
        [name for name in names if name in there], sorted({path for found in wanted.values() for path in found})
    )


def _head(model: Any) -> Any:
    """The layer that scores or writes, which ``all`` leaves alone."""
    return score_layer(model) or model.get_output_embeddings()


def _outside(model: Any) -> re.Pattern[str]:
    """Names of modules in parts that stay as they are."""
    return re.compile(frozen_modules(model) or "(?!)")


def _linear(model: Any) -> set[str]:
    head = _head(model)
    outside = _outside(model)
    return {
        _leaf(name)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module is not head and not outside.fullmatch(name)
    }


def _leaf(name: str) -> str:
    """The last word of a name; numbers of a sequence come with the word before, for blocks are numbered too."""
    found = re.search(r"[^.]*?[^.\d][^.]*(\.\d+)*$", name)
    return found.group() if found else name


def _experts(model: Any) -> list[str]:
    """``experts.gate_up_proj`` and the like: one parameter holds a matrix of every expert."""
    outside = _outside(model)
    found = set()
    for name, module in model.named_modules():
        if "experts" in name.rpartition(".")[2] and not outside.fullmatch(name):
            leaves = [leaf for leaf, weight in module.named_parameters(recurse=False) if weight.ndim == 3]
            found |= {f"{name.rpartition('.')[2]}.{leaf}" for leaf in leaves}
    return sorted(found)


def _kept_by_peft(model: PreTrainedModel, names: list[str]) -> list[str]:
    """PEFT takes some names for those of single experts, wherever they stand, and leaves such layers alone."""
    from peft import LoraConfig
    from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers

    probe: LoraConfig = LoraConfig(target_modules=copy.copy(names))
    try:
        convert_peft_config_for_transformers(probe, model, None)
    except ValueError as error:
        raise ConfigError(f"lora_target: {first_line(error)}") from None
    return [name for name in names if name in (probe.target_modules or ())]


def require_known(key: str, names: Iterable[str], choices: set[str], known: set[str] | None = None) -> None:
    """Refuse names that the model does not have; ``known`` ones are more than the ``choices`` that a line can list."""
    wrong = [name for name in names if name not in (choices if known is None else known)]
    if wrong:
        raise ConfigError(f"{key}: the model has no {', '.join(wrong)}; choose from {', '.join(sorted(choices))}")
