# SPDX-License-Identifier: Apache-2.0
"""LoRA+ (Hayou et al. 2024): the B matrices learn ``loraplus_lr_ratio`` times faster than the A matrices."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import TrainingArguments

    from ...hparams import TrainArgs


def check(args: TrainArgs) -> None:
    """The optimizer is that of ``optim``, whichever it is."""


def create(model: nn.Module, args: TrainArgs, arguments: TrainingArguments) -> torch.optim.Optimizer:
    """Return the optimizer of ``optim`` with LoRA+ learning-rate groups.

    Args:
        model: PeftModel.
        args: Its tuner has ``loraplus_lr_ratio`` and ``loraplus_lr_embedding``.
        arguments: Learning rate, optimizer and weight decay.
    """
    from peft.optimizers import create_loraplus_optimizer
    from transformers import Trainer

    optimizer, options = Trainer.get_optimizer_cls_and_kwargs(arguments, model)
    return create_loraplus_optimizer(
        model,
        optimizer,
        lr=options.pop("lr"),
        loraplus_lr_ratio=args.tuner.loraplus_lr_ratio,
        loraplus_lr_embedding=args.tuner.loraplus_lr_embedding,
        loraplus_weight_decay=arguments.weight_decay,
        **options,
    )
