# SPDX-License-Identifier: Apache-2.0
"""Rules of ZeRO: what its flat buffers cannot hold is refused before anything is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..deepspeed import zero_of
from ..field import require
from .sharding import require_shardable

if TYPE_CHECKING:
    from ..args import TrainArgs


def check_training(args: TrainArgs) -> None:
    """Nothing is asked for beside ``deepspeed`` that its engine would leave out or do otherwise."""
    zero = zero_of(args)
    if zero is None:
        return
    require_shardable("deepspeed", args)
    training, rlhf = args.training, args.rlhf
    refused = {
        "freeze_vision_tower: false": not args.finetuning.freeze_vision_tower,
        "freeze_multi_modal_projector: false": not args.finetuning.freeze_multi_modal_projector,
        "qat": args.qat.qat != "none",
        "fp8": args.fp8.fp8,
        "fp16": bool(training.fp16),
        "pure_bf16": args.finetuning.pure_bf16,
        "on_nonfinite: skip": training.on_nonfinite == "skip",
        "torch_compile": bool(training.torch_compile),
        "stream_layers": bool(args.quantization.stream_layers),
        "lisa_activated_layers": getattr(args.tuner, "lisa_activated_layers", None) is not None,
        "activation_offload: disk": args.model.activation_offload == "disk",
    }
    whole = {
        "stage: ppo": args.finetuning.stage == "ppo",
        "stage: grpo": args.finetuning.stage == "grpo",
        "gkd_lambda": args.finetuning.stage == "gkd" and rlhf.gkd_lambda > 0,
        "predict_with_generate": bool(training.predict_with_generate),
        "do_predict": bool(training.do_predict),
        "load_best_model_at_end": bool(training.load_best_model_at_end),
        "reward_model_type: lora": bool(rlhf.reward_model) and rlhf.reward_model_type == "lora",
    }
    found = next((key for key, there in refused.items() if there), None)
    require(found is None, f"deepspeed: not with {found}; leave one of the two out")
    found = next((key for key, there in whole.items() if there), None) if zero.stage == 3 else None
    require(found is None, f"deepspeed: not with {found} in ZeRO stage 3; use stage 2, or fsdp")
