# SPDX-License-Identifier: Apache-2.0
"""APOLLO: ``use_apollo`` and its keys, or ``optim: apollo_*`` with ``optim_args`` and ``optim_target_modules``."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from ...hparams import split_list
from ...hparams.inner_settings import optimizer_settings
from ...hparams.rules.optimizer import require_optim
from .projected import Projected, by_optim, check_projected, create_projected

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import TrainingArguments

    from ...hparams import TrainArgs


def check(args: TrainArgs) -> None:
    """AdamW sees the projected gradients; nothing needs all gradients at once if they are used one by one."""
    if args.apollo.use_apollo:
        require_optim("use_apollo", args.training.optim)
    check_projected(args, _chosen(args))


def create(model: nn.Module, args: TrainArgs, arguments: TrainingArguments) -> torch.optim.Optimizer:
    """Return APOLLO around AdamW for the trained weights."""
    import torch

    from .algorithms.low_rank import Apollo

    betas = (arguments.adam_beta1, arguments.adam_beta2)
    inner = partial(torch.optim.AdamW, betas=betas, eps=arguments.adam_epsilon)
    return create_projected(Apollo, inner, model, arguments, _chosen(args), betas=betas)


def _chosen(args: TrainArgs) -> Projected:
    apollo, training = args.apollo, args.training
    if apollo.use_apollo:
        settings: dict[str, Any] = {
            "rank": apollo.apollo_rank,
            "gap": apollo.apollo_update_interval,
            "scale": apollo.apollo_scale,
        }
        settings |= {"side": apollo.apollo_proj_type, "projection": apollo.apollo_proj}
        settings |= {"scale_type": apollo.apollo_scale_type, "scale_front": apollo.apollo_scale_front}
        layerwise = "apollo_layerwise" if apollo.apollo_layerwise else ""
        return Projected("apollo_target", split_list(apollo.apollo_target), layerwise, settings)
    usual = {"rank": 128, "update_proj_gap": 200, "scale": 1.0, "proj_type": "std", "proj": "random"}
    given = {**usual, "scale_type": "channel", **optimizer_settings(training)}
    names = {"rank": "rank", "gap": "update_proj_gap", "scale": "scale", "side": "proj_type", "projection": "proj"}
    settings = {name: given[key] for name, key in names.items()}
    settings |= {"scale_type": given["scale_type"], "scale_front": False}
    return by_optim(training, settings)
