# SPDX-License-Identifier: Apache-2.0
"""GaLore: ``use_galore`` and its keys, or ``optim: galore_*`` with ``optim_args`` and ``optim_target_modules``."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from ...extras.packages import require, require_installed
from ...hparams import split_list
from ...hparams.inner_settings import optimizer_settings
from ...hparams.rules.optimizer import require_optim
from .projected import Projected, by_optim, check_projected, create_projected

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import TrainingArguments

    from ...hparams import TrainArgs

# `optim` -> the optimizer that sees the projected gradients.
INNER = {
    "adamw_torch": "adamw",
    "adamw_torch_fused": "adamw",
    "adamw_8bit": "adamw_8bit",
    "adamw_bnb_8bit": "adamw_8bit",
    "adafactor": "adafactor",
}


def check(args: TrainArgs) -> None:
    """Its inner optimizer is one of three, and nothing needs all gradients at once if they are used one by one."""
    optim = args.training.optim
    if args.galore.use_galore:
        require_optim("use_galore", optim, INNER)
    if _inner_name(args) == "adamw_8bit":
        require_installed("bitsandbytes", f"optim: {optim}")
    check_projected(args, _chosen(args))


def create(model: nn.Module, args: TrainArgs, arguments: TrainingArguments) -> torch.optim.Optimizer:
    """Return GaLore around AdamW, 8-bit AdamW or Adafactor for the trained weights."""
    from .algorithms.low_rank import GaLore

    return create_projected(GaLore, _inner(_inner_name(args), arguments), model, arguments, _chosen(args))


def _chosen(args: TrainArgs) -> Projected:
    galore, training = args.galore, args.training
    if galore.use_galore:
        settings: dict[str, Any] = {
            "rank": galore.galore_rank,
            "gap": galore.galore_update_interval,
            "scale": galore.galore_scale,
        }
        settings |= {"side": galore.galore_proj_type, "projection": "svd"}
        layerwise = "galore_layerwise" if galore.galore_layerwise else ""
        return Projected("galore_target", split_list(galore.galore_target), layerwise, settings)
    given = {"rank": 128, "update_proj_gap": 200, "scale": 0.25, "proj_type": "std"} | optimizer_settings(training)
    settings = {"rank": given["rank"], "gap": given["update_proj_gap"], "scale": given["scale"]}
    settings |= {"side": given["proj_type"], "projection": "svd"}
    return by_optim(training, settings)


def _inner_name(args: TrainArgs) -> str:
    optim = args.training.optim
    return INNER.get(optim) or optim.removeprefix("galore_").removesuffix("_layerwise")


def _inner(name: str, arguments: TrainingArguments) -> Any:
    import torch

    adam = {"betas": (arguments.adam_beta1, arguments.adam_beta2), "eps": arguments.adam_epsilon}
    if name == "adamw":
        return partial(torch.optim.AdamW, **adam)
    if name == "adamw_8bit":
        return partial(require("bitsandbytes", f"optim: {arguments.optim}").optim.AdamW8bit, **adam)
    from transformers import Adafactor

    return partial(Adafactor, scale_parameter=False, relative_step=False)
