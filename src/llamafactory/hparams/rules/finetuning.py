# SPDX-License-Identifier: Apache-2.0
"""Rules of stage, tuner and losses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..field import require

if TYPE_CHECKING:
    from ..args import TrainArgs


def check_training(args: TrainArgs) -> None:
    """Rules of stage, tuner and losses."""
    finetuning, training = args.finetuning, args.training
    losses = [key for key in ("use_dft_loss", "use_asft_loss", "use_eaft_loss") if getattr(finetuning, key)]
    require(len(losses) < 2, f"{' and '.join(losses)}: choose one loss")
    require(not losses or finetuning.stage == "sft", f"{losses[0] if losses else ''}: only for stage sft")
    kind = finetuning.finetuning_type
    require(
        not finetuning.use_llama_pro or kind in ("freeze", "lora"),
        f"use_llama_pro: only with finetuning_type freeze or lora, not {kind}",
    )
    require(not (finetuning.pure_bf16 and training.fp16), "pure_bf16: cannot be combined with fp16")
    require(not (finetuning.pure_bf16 and training.bf16 is False), "pure_bf16: cannot be combined with bf16: false")
    if finetuning.early_stopping_steps is not None:
        require(training.eval_strategy != "no", "early_stopping_steps: needs eval_strategy steps or epoch")
