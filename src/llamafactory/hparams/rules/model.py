# SPDX-License-Identifier: Apache-2.0
"""Rules of the model and how it is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..field import require, split_list
from ..model_args import named_adapters

if TYPE_CHECKING:
    from ..args import InferArgs, TrainArgs


def check(args: TrainArgs | InferArgs) -> None:
    """Rules of the model that hold for every command."""
    model, quantization = args.model, args.quantization
    named_adapters(model.lora_modules)
    require(bool(model.model_name_or_path), "model_name_or_path: missing, every command needs a model")
    adapters = split_list(model.adapter_name_or_path)
    kind = args.finetuning.finetuning_type
    require(not adapters or kind in ("lora", "oft"), f"adapter_name_or_path: needs finetuning_type lora, not {kind}")
    if quantization.quantization_bit is not None:
        require(kind in ("lora", "oft"), f"quantization_bit: only with finetuning_type lora, not {kind}")
        require(not model.resize_vocab, "quantization_bit: not together with resize_vocab")
        require(len(adapters) < 2, "quantization_bit: takes one adapter at most")


def check_training(args: TrainArgs) -> None:
    """Rules of the model that hold for training."""
    model = args.model
    require(
        model.infer_backend == "huggingface",
        f"infer_backend: {model.infer_backend} cannot train; leave it out of a training command",
    )
    require(args.quantization.quantization_device_map is None, "quantization_device_map: only for inference")
    require(
        not (model.disable_gradient_checkpointing and (
            args.training.activation_checkpointing or args.training.gradient_checkpointing
        )),
        "disable_gradient_checkpointing: cannot be combined with activation_checkpointing: true",
    )  # fmt: skip
    _check_offload(args)


def _check_offload(args: TrainArgs) -> None:
    """What waits elsewhere is what checkpointing keeps, so that it must not be off."""
    model, training = args.model, args.training
    key = "use_unsloth_gc" if model.use_unsloth_gc else "activation_offload"
    if not model.use_unsloth_gc and model.activation_offload == "none":
        return
    require(
        not (model.use_unsloth_gc and model.activation_offload == "disk"),
        "use_unsloth_gc and activation_offload: disk: choose one",
    )
    require(not model.disable_gradient_checkpointing, f"{key}: not with disable_gradient_checkpointing: true")
    for name in ("activation_checkpointing", "gradient_checkpointing"):
        off = getattr(training, name) is False and name in args.keys
        require(not off, f"{key}: not with {name}: false")
    require(not args.keys.get("use_reentrant_gc"), f"{key}: not with use_reentrant_gc: true")
