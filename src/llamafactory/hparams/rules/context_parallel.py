# SPDX-License-Identifier: Apache-2.0
"""Rules of context parallelism: what looks at more than its own tokens outside attention is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..field import require
from ..parallelism import CONTEXT as KEY
from .sharding import TUNERS

if TYPE_CHECKING:
    from ..args import TrainArgs

STAGES = ("pt", "sft", "dpo", "kto")


def check_training(args: TrainArgs) -> None:
    """Nothing is asked for beside ``context_parallel_size`` that needs a whole row on one process."""
    training, finetuning = args.training, args.finetuning
    size = training.context_parallel_size
    if size == 1:
        return
    require(finetuning.stage in STAGES, f"{KEY}: not in stage {finetuning.stage}; only in {', '.join(STAGES)}")
    kind = finetuning.finetuning_type
    require(kind in TUNERS, f"{KEY}: not with finetuning_type {kind}; use {', '.join(TUNERS)}")
    refused = {
        "deepspeed": bool(training.deepspeed),
        "padding_free: false": args.data.padding_free is False,
        "streaming": bool(args.data.streaming),
        "shift_attn": args.model.shift_attn,
        "moe_aux_loss_coef": bool(args.model.moe_aux_loss_coef),
        "neftune_noise_alpha": bool(training.neftune_noise_alpha),
        "torch_compile": bool(training.torch_compile),
        "stream_layers": bool(args.quantization.stream_layers),
    }
    found = next((key for key, there in refused.items() if there), None)
    require(found is None, f"{KEY}: not with {found}; leave one of the two out")
