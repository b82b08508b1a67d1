# SPDX-License-Identifier: Apache-2.0
"""Rules of the optimizers: those that `optim` names, and the memory-saving ones with keys of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...extras.packages import require_installed
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
    ("galore_torch", "galore-torch"): (
        "galore_adafactor", "galore_adafactor_layerwise", "galore_adamw", "galore_adamw_8bit",
        "galore_adamw_8bit_layerwise", "galore_adamw_layerwise",
    ),
    ("apollo_torch", "apollo-torch"): ("apollo_adamw", "apollo_adamw_layerwise"),
    ("lomo_optim", "lomo-optim"): ("adalomo", "lomo"),
    ("grokadamw", "grokadamw"): ("grokadamw",),
    ("schedulefree", "schedulefree"): ("schedule_free_adamw", "schedule_free_radam", "schedule_free_sgd"),
    ("torchao", "torchao"): ("adamw_torch_4bit", "adamw_torch_8bit"),
    ("optimi", "torch-optimi"): ("stable_adamw",),
    ("torch_npu", "torch-npu"): ("adamw_torch_npu_fused",),
    ("torch_xla", "torch-xla"): ("adamw_torch_xla",),
    ("torchdistx", "git+https://github.com/pytorch/torchdistx"): ("adamw_anyprecision",),
}  # fmt: skip
# Optimizers that project the gradients of modules which the user names.
PROJECTING = (*PACKAGES["galore_torch", "galore-torch"], *PACKAGES["apollo_torch", "apollo-torch"])


def check_training(args: TrainArgs) -> None:
    """At most one of the memory-saving three, none with adapters; what `optim` names can be made."""
    sections = {"use_galore": args.galore, "use_apollo": args.apollo, "use_badam": args.badam}
    chosen = [key for key, section in sections.items() if getattr(section, key)]
    require(len(chosen) < 2, f"{' and '.join(chosen)}: choose one")
    if chosen:
        require(args.finetuning.finetuning_type != "lora", f"{chosen[0]}: not with finetuning_type lora")
    if args.training.do_train:
        _check_optim(args.training.optim, args.training.optim_target_modules)


def _check_optim(name: str, modules: str | list[str] | None) -> None:
    for (package, pip), names in PACKAGES.items():
        if name in names:
            require_installed(package, f"optim: {name}", pip)
    if name in PROJECTING:
        require(bool(modules), f"optim_target_modules: missing, optim {name} needs it; for example all-linear")
    else:
        require(not modules, f"optim_target_modules: only for optim galore_* and apollo_*, not {name}")
