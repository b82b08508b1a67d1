# SPDX-License-Identifier: Apache-2.0
"""Rules of the model and how it is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ... import plugins
from ..field import require, split_list
from ..model_args import LIGER_KERNELS, LIGER_LOSSES, named_adapters

if TYPE_CHECKING:
    from ..args import InferArgs, TrainArgs
    from ..model_args import QuantizationArguments

# Values of finetuning_type that train nothing over weights in few bits -> why. Every other one computes over them, by
# whichever method they were quantized, what it computes over their dequantized values.
NOT_OVER_FEW_BITS = {
    **dict.fromkeys(("full", "freeze"), "weights in few bits cannot take a step; use lora, or leave the bits out"),
    "glora": "PEFT puts it on plain layers of torch alone; use lora, or leave the bits out",
}


def check(args: TrainArgs | InferArgs) -> None:
    """Rules of the model that hold for every command."""
    model, quantization = args.model, args.quantization
    named_adapters(model.lora_modules)
    require(bool(model.model_name_or_path), "model_name_or_path: missing, every command needs a model")
    require(
        not model.use_unsloth,
        "use_unsloth: its loader puts forwards of its own for attention, loss and PEFT into transformers, which know "
        "neither our packing nor our loss; leave it out (docs/support.md; use_unsloth_gc works)",
    )
    adapters = split_list(model.adapter_name_or_path)
    kind = args.finetuning.finetuning_type
    whole = kind in ("full", "freeze")
    require(not adapters or not whole, f"adapter_name_or_path: needs finetuning_type lora, not {kind}")
    if quantization.quantization_bit is not None:
        why = NOT_OVER_FEW_BITS.get(kind)
        require(why is None, f"quantization_bit: not with finetuning_type {kind}: {why}")
        _check_quantization(args, quantization.quantization_bit, len(adapters))


def _check_quantization(args: TrainArgs | InferArgs, bits: int, adapters: int) -> None:
    """A model that is quantized while it loads."""
    model, settings, tuner = args.model, args.quantization, args.tuner
    check_bits("quantization_bit", bits, settings)
    require(not model.resize_vocab, "quantization_bit: not together with resize_vocab")
    require(not model.train_from_scratch, "quantization_bit: random weights of train_from_scratch are not quantized")
    require(adapters < 2, "quantization_bit: takes one adapter at most")
    require(
        not (adapters and model.lora_modules),
        "lora_modules: with quantization_bit the adapter of adapter_name_or_path is not merged, and no others act "
        "beside it; name all of them in lora_modules",
    )
    require(
        not (adapters and getattr(tuner, "create_new_adapter", False)),
        "create_new_adapter: the adapter before it would be rounded into the quantized weights; export the merged "
        "model and train on that",
    )
    require(
        not getattr(tuner, "pissa_init", False),
        "pissa_init: takes a part out of weights that quantization_bit rounds; leave one of them out",
    )
    if settings.stream_layers:
        _check_streaming(args)
    engine = model.infer_backend
    require(
        engine == "huggingface",
        f"quantization_bit: {engine} quantizes nothing while it loads; serve an export with export_quantization_bit",
    )


def _check_streaming(args: TrainArgs | InferArgs) -> None:
    """A quantized base that stays in a file."""
    settings = args.quantization
    can = [name for name in plugins.QUANTIZERS if plugins.resolve("quantizers", name).packing is not None]
    require(
        settings.quantization_method in can,
        f"stream_layers: weights of {settings.quantization_method} cannot stay in a file; "
        f"use quantization_method {' or '.join(can)}",
    )
    require(settings.quantization_device_map is None, "stream_layers: not with quantization_device_map")
    require(not getattr(args.tuner, "use_dora", False), "stream_layers: not with use_dora, which reads whole weights")


def check_bits(key: str, bits: int, settings: QuantizationArguments) -> None:
    """A number of bits, and the number format, must be ones of the method.

    Args:
        key: That gave the bits.
        bits: Of a weight.
        settings: Name the method.

    Raises:
        ConfigError: They are not.
    """
    method, kind = settings.quantization_method, settings.quantization_type
    known = plugins.resolve("quantizers", method).bits
    loading = [name for name in plugins.QUANTIZERS if plugins.resolve("quantizers", name).bits]
    require(
        bool(known),
        f"quantization_method: {method} is a format of checkpoints and quantizes nothing while a model loads; choose "
        f"from {', '.join(loading)}, or leave {key} out and name such a checkpoint",
    )
    require(bits in known, f"{key}: {bits}, but quantization_method {method} has {' or '.join(map(str, known))}")
    kinds = known[bits]
    require(
        kind in ("nf4", *kinds),  # nf4 is the default, which stands for nothing elsewhere
        f"quantization_type: {kind} is no format of {method} with {bits} bits; "
        + (f"it has {' or '.join(kinds)}" if kinds else "it has one, so leave the key out"),
    )


def check_training(args: TrainArgs) -> None:
    """Rules of the model that hold for training."""
    model = args.model
    require(
        model.infer_backend == "huggingface",
        f"infer_backend: {model.infer_backend} cannot train; leave it out of a training command",
    )
    require(args.quantization.quantization_device_map is None, "quantization_device_map: only for inference")
    kind = args.finetuning.finetuning_type
    require(
        not model.train_from_scratch or kind in ("full", "freeze"),
        f"train_from_scratch: finetuning_type {kind} saves adapters alone, and loses the random weights below them; "
        "use full",
    )
    require(
        not (model.disable_gradient_checkpointing and (
            args.training.activation_checkpointing or args.training.gradient_checkpointing
        )),
        "disable_gradient_checkpointing: cannot be combined with activation_checkpointing: true",
    )  # fmt: skip
    _check_offload(args)
    for name, on in (args.training.liger_kernel_config or {}).items():
        require(
            name in LIGER_KERNELS or (name in LIGER_LOSSES and not on),
            f"liger_kernel_config: {name}: expected one of {', '.join(LIGER_KERNELS)}; the loss is computed here",
        )
    if model.shift_attn:
        _check_shifted(args)


def _check_shifted(args: TrainArgs) -> None:
    """Only training is shifted, so nothing may be compared with what is computed outside of it."""
    stage, kind = args.finetuning.stage, args.finetuning.finetuning_type
    require(
        stage in ("pt", "sft", "rm"),
        f"shift_attn: not in stage {stage}, whose references or answers are computed with full attention",
    )
    require(not args.finetuning.use_asft_loss, "shift_attn: not with use_asft_loss, whose reference has full attention")
    prompts = ("prompt_tuning", "p_tuning", "prefix_tuning")
    require(kind not in prompts, f"shift_attn: not with finetuning_type {kind}, whose rows are padded")
    require(args.data.padding_free is not False, "shift_attn: not with padding_free: false")
    asked = args.model.flash_attn
    require(asked == "auto", f"shift_attn: flash_attn: {asked} has no groups; leave flash_attn out")
    require(args.data.cutoff_len >= 8, f"shift_attn: cutoff_len: {args.data.cutoff_len} is too short to be cut in four")


def _check_offload(args: TrainArgs) -> None:
    """What waits elsewhere, or is kept beside, is of checkpointing, so that it must not be off."""
    model, training = args.model, args.training
    asked = {
        "use_unsloth_gc": model.use_unsloth_gc,
        "activation_offload": model.activation_offload != "none",
        "activation_keep": model.activation_keep != "none",
    }
    key = next((name for name, value in asked.items() if value), None)
    if key is None:
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
