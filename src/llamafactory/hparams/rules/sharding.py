# SPDX-License-Identifier: Apache-2.0
"""Rules of sharded training: what cannot be cut into parts is refused before anything is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..derive import checkpointing_asked, chosen_optimizer
from ..field import require, split_list
from ..sharding import sharding_of

if TYPE_CHECKING:
    from ..args import TrainArgs

LAYER_STAGES = ("pt", "sft", "dpo", "kto")
TUNERS = ("full", "freeze", "lora")
# They look at one number of a weight at a time, so that a part of it is as good as all of it.
OPTIMIZERS = ("adamw_torch", "adamw_torch_fused", "sgd", "rmsprop", "adagrad")


def require_shardable(engine: str, args: TrainArgs) -> None:
    """Weights, gradients and the optimizer's state are such that a process may hold a part of each.

    Args:
        engine: Key of the engine that cuts them.
        args: What the run is asked to do.
    """
    kind, bits = args.finetuning.finetuning_type, args.quantization.quantization_bit
    require(kind in TUNERS, f"{engine}: not with finetuning_type {kind}; use {', '.join(TUNERS)}")
    require(
        bits is None, f"{engine}: not with quantization_bit: {bits}, packed weights cannot be sharded; leave one out"
    )
    own, optim = chosen_optimizer(args), args.training.optim
    require(
        own in (None, "loraplus") and (own is not None or optim in OPTIMIZERS),
        f"{engine}: not with the optimizer {own or optim}, which looks at whole weights; use "
        f"optim: {', '.join(OPTIMIZERS)}",
    )


def check_training(args: TrainArgs) -> None:
    """Nothing is asked for beside ``fsdp`` that needs a weight, or a gradient, as a whole."""
    sharding = sharding_of(args)
    if sharding is None:
        return
    kind, training, tuner = args.finetuning.finetuning_type, args.training, args.tuner
    require(not training.deepspeed, f"{sharding.key} and deepspeed: choose one")
    if sharding.key != "fsdp":
        _check_layers(args, sharding.key)
    require_shardable(sharding.key, args)
    asked = checkpointing_asked(args)
    require(
        asked is not False or not sharding.checkpointing,
        "fsdp_config: activation_checkpointing: true contradicts the key activation_checkpointing, which is false",
    )
    refused = {
        "qat": args.qat.qat != "none",
        "fp8": args.fp8.fp8,
        "use_llama_pro": args.finetuning.use_llama_pro,
        "upcast_layernorm": args.model.upcast_layernorm and kind != "lora",
        "use_reentrant_gc": bool(args.keys.get("use_reentrant_gc")),
        "activation_offload: disk": args.model.activation_offload == "disk",
        "ddp_find_unused_parameters": bool(training.ddp_find_unused_parameters),
        "torch_compile": bool(training.torch_compile),
        "stream_layers": bool(args.quantization.stream_layers),
        "lisa_activated_layers": getattr(tuner, "lisa_activated_layers", None) is not None,
        "spectrum_top_fraction": getattr(tuner, "spectrum_top_fraction", None) is not None,
        "fp16": bool(training.fp16),
        "rollout_tools": args.rlhf.rollout_tools is not None,
        "rollout_environment": args.rlhf.rollout_environment is not None,
        "rollout_engine: vllm": args.rlhf.rollout_engine != "huggingface",
        "reward_model_type: lora": bool(args.rlhf.reward_model) and args.rlhf.reward_model_type == "lora",
        "ref_model_adapters": bool(args.rlhf.ref_model_adapters),
        "teacher_model_adapters": bool(args.rlhf.teacher_model_adapters),
        "use_asft_loss": args.finetuning.use_asft_loss,
        "use_dora": bool(getattr(tuner, "use_dora", False)),
        "pissa_init": bool(getattr(tuner, "pissa_init", False)),
        "lora_init": getattr(tuner, "lora_init", "default") not in ("default", "gaussian", "orthogonal"),
        "peft_config": bool(getattr(tuner, "peft_config", None)),
        "create_new_adapter": bool(getattr(tuner, "create_new_adapter", False)),
    }
    found = next((key for key, there in refused.items() if there), None)
    require(found is None, f"{sharding.key}: not with {found}, which cannot be sharded; leave one of the two out")
    require(
        len(split_list(args.model.adapter_name_or_path)) < 2,
        f"{sharding.key}: not with several adapters, which would be merged into whole weights; export them first",
    )


def _check_layers(args: TrainArgs, key: str) -> None:
    """Nothing is asked for that looks at a whole layer."""
    stage, kind, model = args.finetuning.stage, args.finetuning.finetuning_type, args.model
    require(stage in LAYER_STAGES, f"{key}: not in stage {stage}; only in {', '.join(LAYER_STAGES)}")
    refused = {
        "context_parallel_size": args.training.context_parallel_size > 1,
        "train_from_scratch": model.train_from_scratch,
        "shift_attn": model.shift_attn,
        "moe_aux_loss_coef": bool(model.moe_aux_loss_coef),
        "predict_with_generate": bool(args.training.predict_with_generate),
        "additional_target": kind == "lora" and bool(getattr(args.tuner, "additional_target", None)),
    }
    found = next((name for name, there in refused.items() if there), None)
    require(found is None, f"{key}: not with {found}; leave one of the two out")
