# SPDX-License-Identifier: Apache-2.0
"""Rules of the optimizers: those that `optim` names, and the memory-saving ones with keys of their own."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from ... import plugins
from ...extras.packages import require_installed
from ..derive import ROUNDING_OPTIMIZERS, chosen_optimizer
from ..field import require

if TYPE_CHECKING:
    from ..args import TrainArgs

# Package and what pip calls it -> the values of `optim` that transformers makes with it; a test compares the two.
PACKAGES: dict[tuple[str, str], tuple[str, ...]] = {
    ("bitsandbytes", "bitsandbytes"): (
        "adamw_8bit", "adamw_bnb_8bit", "ademamix", "ademamix_8bit", "lion_32bit", "lion_8bit", "paged_adamw_32bit",
        "paged_adamw_8bit", "paged_ademamix_32bit", "paged_ademamix_8bit", "paged_lion_32bit", "paged_lion_8bit",
        "rmsprop_bnb", "rmsprop_bnb_32bit", "rmsprop_bnb_8bit",
    ),
    ("lomo_optim", "lomo-optim"): ("adalomo", "lomo"),
    ("grokadamw", "grokadamw"): ("grokadamw",),
    ("schedulefree", "schedulefree"): ("schedule_free_adamw", "schedule_free_radam", "schedule_free_sgd"),
    ("torchao", "torchao"): ("adamw_torch_4bit", "adamw_torch_8bit"),
    ("optimi", "torch-optimi"): ("stable_adamw",),
    ("torch_npu", "torch-npu"): ("adamw_torch_npu_fused",),
    ("torch_xla", "torch-xla"): ("adamw_torch_xla",),
    ("torchdistx", "git+https://github.com/pytorch/torchdistx"): ("adamw_anyprecision",),
}  # fmt: skip
# Optimizers that project the gradients of modules which the user names: they are made here, see train/optim.
PROJECTING = (
    "galore_adafactor", "galore_adafactor_layerwise", "galore_adamw", "galore_adamw_8bit",
    "galore_adamw_8bit_layerwise", "galore_adamw_layerwise", "apollo_adamw", "apollo_adamw_layerwise",
)  # fmt: skip
ADAMW = ("adamw_torch", "adamw_torch_fused")  # the default, and its other name
_SWITCHES = ("use_galore", "use_apollo", "use_badam", "use_adam_mini", "use_muon", "stochastic_rounding")
OF_WHOLE_WEIGHTS = ("use_galore", "use_apollo", "use_badam")


def check_training(args: TrainArgs) -> None:
    """One optimizer is asked for, it goes with the tuner, and what it needs is there."""
    switches = {**vars(args.galore), **vars(args.apollo), **vars(args.badam), **vars(args.finetuning)}
    chosen = [key for key in _SWITCHES if switches[key]]
    if getattr(args.tuner, "loraplus_lr_ratio", None) is not None:
        chosen.append("loraplus_lr_ratio")
    require(len(chosen) < 2, f"{' and '.join(chosen)}: choose one")
    kind, training = args.finetuning.finetuning_type, args.training
    _check_rates_of_parts(args, chosen)
    for key in chosen:
        whole = key in OF_WHOLE_WEIGHTS
        require(not whole or kind in ("full", "freeze"), f"{key}: not with finetuning_type {kind}; use full or freeze")
    if training.do_train:
        if not chosen or chosen == ["stochastic_rounding"]:
            _check_optim(training.optim, training.optim_target_modules)
        if args.finetuning.stochastic_rounding:
            _check_rounding(args)
        name = chosen_optimizer(args)
        if name is not None:
            plugins.resolve("optimizers", name).check(args)


def require_optim(key: str, optim: str, expected: Collection[str] = ADAMW) -> None:
    """Refuse an ``optim`` beside a key that brings an optimizer of its own."""
    require(optim in expected, f"{key}: not with optim {optim}; expected one of {', '.join(expected)}")


def _check_rounding(args: TrainArgs) -> None:
    require(args.finetuning.pure_bf16, "stochastic_rounding: needs pure_bf16: true, else trained weights are float32")
    require_optim("stochastic_rounding", args.training.optim, (*ADAMW, *ROUNDING_OPTIMIZERS))


def _check_rates_of_parts(args: TrainArgs, chosen: Collection[str]) -> None:
    """Towers and projector get groups of their own in an optimizer that keeps its weights in groups."""
    own = chosen_optimizer(args)
    rates = {"vision_tower_lr": args.finetuning.vision_tower_lr, "projector_lr": args.finetuning.projector_lr}
    for key in (key for key, rate in rates.items() if rate is not None):
        others = [one for one in chosen if one not in ("loraplus_lr_ratio", "stochastic_rounding")]
        require(not others and own in (None, "loraplus"), f"{key}: not with {(others or [f'optim: {own}'])[0]}")
        require(args.training.learning_rate > 0, f"{key}: needs a learning_rate above 0, which it is measured by")


def _check_optim(name: str, modules: str | list[str] | None) -> None:
    for (package, pip), names in PACKAGES.items():
        if name in names:
            require_installed(package, f"optim: {name}", pip)
    if name in PROJECTING:
        require(bool(modules), f"optim_target_modules: missing, optim {name} needs it; for example all-linear")
    else:
        require(not modules, f"optim_target_modules: only for optim galore_* and apollo_*, not {name}")
