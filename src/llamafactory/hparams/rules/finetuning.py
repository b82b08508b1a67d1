# SPDX-License-Identifier: Apache-2.0
"""Rules of stage, tuner and losses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..field import require

if TYPE_CHECKING:
    from ..args import TrainArgs

LOSSES = ("use_dft_loss", "use_asft_loss", "use_eaft_loss")  # of stage sft


def check_training(args: TrainArgs) -> None:
    """Rules of stage, tuner and losses."""
    finetuning, training = args.finetuning, args.training
    losses = [key for key in LOSSES if getattr(finetuning, key)]
    require(len(losses) < 2, f"{' and '.join(losses)}: choose one loss")
    if losses:
        require(finetuning.stage == "sft", f"{losses[0]}: only for stage sft")
        smoothed = training.label_smoothing_factor
        require(not smoothed, f"label_smoothing_factor: {smoothed} is for cross-entropy, not with {losses[0]}")
    if finetuning.stage == "sft" and not finetuning.use_asft_loss:
        named = [key for key in ("ref_model", "ref_model_adapters") if getattr(args.rlhf, key)]
        require(not named, f"{named[0] if named else ''}: in stage sft only with use_asft_loss: true")
    kind = finetuning.finetuning_type
    require(
        not finetuning.use_llama_pro or kind in ("freeze", "lora"),
        f"use_llama_pro: only with finetuning_type freeze or lora, not {kind}",
    )
    require(not (finetuning.pure_bf16 and training.fp16), "pure_bf16: cannot be combined with fp16")
    require(not (finetuning.pure_bf16 and training.bf16 is False), "pure_bf16: cannot be combined with bf16: false")
    if args.fp8.fp8:
        kind = finetuning.finetuning_type
        require(kind in ("full", "freeze"), f"fp8: not with finetuning_type {kind}; use full or freeze")
        require(args.quantization.quantization_bit is None, "fp8: not with quantization_bit")
        require(not training.fp16, "fp8: not with fp16; use bf16")
    if args.qat.qat != "none":
        _check_qat(args)
    if finetuning.early_stopping_steps is not None:
        require(training.eval_strategy != "no", "early_stopping_steps: needs eval_strategy steps or epoch")
    if finetuning.generate_samples:
        require(finetuning.stage == "sft", f"generate_samples: only for stage sft, not {finetuning.stage}")
        evaluates = training.do_eval or training.eval_strategy != "no"
        require(evaluates, "generate_samples: answers at evaluations, so it needs eval_strategy or do_eval")


def _check_qat(args: TrainArgs) -> None:
    """Weights that are rounded in each forward must be those that an export rounds."""
    kind, stage, tuner, key = args.finetuning.finetuning_type, args.finetuning.stage, args.tuner, f"qat: {args.qat.qat}"
    require(kind in ("full", "lora"), f"{key}: not with finetuning_type {kind}; use full or lora")
    require(stage in ("pt", "sft"), f"{key}: for stage pt or sft, not {stage}: a reference would be rounded too")
    require(args.quantization.quantization_bit is None, f"{key}: not with quantization_bit, which rounds for good")
    require(not args.fp8.fp8, f"{key}: not with fp8")
    require(not args.model.mixture_of_depths, f"{key}: not with mixture_of_depths, which export does not quantize")
    if kind == "lora":
        require(not args.model.adapter_name_or_path, f"{key}: not on top of an adapter; export the merged model first")
        require(not tuner.lora_dropout, f"{key}: lora_dropout drops inputs of an adapter that is merged; set it to 0")
        require(not tuner.use_dora, f"{key}: not with use_dora")
        own = tuner.pissa_init or tuner.lora_init in ("olora", "corda", "lora_ga", "loftq")
        require(not own, f"{key}: not with an adapter that begins as a part of the weights; use lora_init: default")
        require(not tuner.peft_config, f"{key}: not with peft_config")
