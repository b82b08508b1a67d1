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
    whole = kind in ("full", "freeze")
    require(not adapters or not whole, f"adapter_name_or_path: needs finetuning_type lora, not {kind}")
    if quantization.quantization_bit is not None:
        require(not whole, f"quantization_bit: only with finetuning_type lora, not {kind}")
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
