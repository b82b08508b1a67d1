# SPDX-License-Identifier: Apache-2.0
"""Weights: loaded with the right types and attention, on the device, with the tuner in place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..extras import threads
from ..extras.errors import ConfigError, in_one_line
from ..extras.heap import returning_memory
from ..extras.logging import get_logger
from ..hparams.deepspeed import zero_of
from ..hparams.sharding import sharding_of
from .config import has_talker, language_class, read_config, takes_media
from .paths import resolve_model_path
from .quantizers.choice import choose_quantizer
from .tokenizer import hub_options
from .whole import check_base, quiet_report

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from ..extras.device import Device
    from ..hparams import Dtypes, InferArgs, TrainArgs
    from ..hparams.model_args import ModelArguments
    from ..hparams.sharding import Sharding
    from .families.family import Capability
    from .heads import Head

logger = get_logger(__name__)

_EXPLICIT_ATTENTION = {
    "disabled": "eager",
    "sdpa": "sdpa",
    "fa2": "flash_attention_2",
    "fa3": "flash_attention_3",
}


def load_model(
    tokenizer: PreTrainedTokenizerBase,
    args: TrainArgs | InferArgs,
    trainable: bool = True,
    head: Head | None = None,
    batch_tokens: int | None = None,
    use_cpu: bool = False,
    beside_training: bool = False,
) -> nn.Module:
    """Load the model and make it ready to train, or merged and ready to answer.

    Args:
        tokenizer: From :func:`load_tokenizer`; the embedding grows to its size when tokens were added.
        args: The whole resolved configuration.
        trainable: Apply the tuner for training; else adapters are merged and nothing requires a gradient.
        head: ``None`` for a language model.
        batch_tokens: Most tokens a micro-batch will hold, if known; default batch size x ``cutoff_len``.
        beside_training: A frozen model that sees the batches of a model in training: same attention, same device.
        use_cpu: Stay on the CPU although there is an accelerator; ``use_cpu: true`` of a training run does it too.

    Returns:
        A ``PreTrainedModel`` or, for adapters in training, a ``PeftModel``, on its device, dtypes set.

    Raises:
        ConfigError: The model cannot be found or loaded, or a key asks for what it cannot do.
    """
    from ..extras.device import probe
    from ..hparams import TrainArgs, resolve_dtypes
    from ..plugins import resolve
    from . import kernels, liger
    from .attention import is_isolating
    from .families.parts import known_layout
    from .media_inputs import shield_towers
    from .towers import settle_parts

    training = args.training if isinstance(args, TrainArgs) else None
    device = probe(use_cpu=use_cpu or (training is not None and training.use_cpu))
    if device.type == "cpu" or args.model.threads != "auto":
        threads.settle(args.model.threads, steady=training is not None and training.full_determinism)
    on_cpu = device.type == "cpu" and training is not None and (trainable or beside_training)
    fast = on_cpu and args.model.kernels
    if fast:
        kernels.native.begin()
    dtypes = resolve_dtypes(args, device)
    tuner = resolve("tuners", args.finetuning.finetuning_type)
    model = _load_base(args, dtypes, device, trainable, trainable or beside_training, head)
    bare = (head is not None and head.kind == "vectors") or known_layout(model.config) is not None
    if trainable and not bare and not hasattr(model, model.base_model_prefix):  # the loss asks it for the hidden states
        raise ConfigError(
            f"model_name_or_path: models of type {model.config.model_type} that take media only answer here; "
            "their language model cannot be trained in place"
        )
    if isinstance(args, TrainArgs) and (trainable or beside_training) and liger.wants_liger(args):
        liger.use_liger(model, args, device)
    if trainable:
        settle_parts(model, args.finetuning)
    if (trainable or beside_training) and is_isolating(model):
        shield_towers(model)
    new_rows = _fit_to_run(model, tokenizer, args, trainable, head)
    tuned: nn.Module = tuner.create(model, args, dtypes, trainable=trainable, new_rows=new_rows)
    if fast:
        kernels.use_kernels(tuned)
    elif on_cpu:
        kernels.native.leave_out(tuned)
    if not trainable:
        return tuned.requires_grad_(False).eval()
    assert isinstance(args, TrainArgs), "only the arguments of a training run can be trained with"
    return _ready_to_train(tuned, args, device, dtypes, batch_tokens)


def _fit_to_run(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    args: TrainArgs | InferArgs,
    trainable: bool,
    head: Head | None,
) -> list[int]:
    """Give the base model its head, its embedding rows and its settings; returns the ids of new tokens."""
    from . import embeddings

    if head is not None and head.kind == "scores":
        from .value_head import resolve_head

        resolve_head(model, resolve_model_path(str(args.model.model_name_or_path), args.model), args.model, trainable)
        # the score is read at the last token that is not this one
        model.config.get_text_config().pad_token_id = model.config.pad_token_id = tokenizer.pad_token_id
    new_rows = embeddings.fit_to_tokenizer(model, tokenizer, args.model)
    model.config.use_cache = args.model.use_kv_cache and not trainable
    if args.model.moe_aux_loss_coef is not None:
        _set_router_loss(model, args.model.moe_aux_loss_coef, trainable)
    return new_rows


def _ready_to_train(
    tuned: nn.Module, args: TrainArgs, device: Device, dtypes: Dtypes, batch_tokens: int | None
) -> nn.Module:
    from . import embeddings, report
    from .checkpointing import choose_checkpointing
    from .fake_quantization import round_weights
    from .float8 import convert_to_float8
    from .quantizers.layers import keep_from_broadcast
    from .towers import freeze_parts, part_lines

    freeze_parts(tuned)
    if args.model.upcast_layernorm:
        embeddings.upcast_norms(tuned)
    if args.fp8.fp8:
        convert_to_float8(tuned, args, device)
    if args.qat.qat != "none":
        round_weights(tuned, args)
    choose_checkpointing(tuned, args, device, dtypes, batch_tokens)
    keep_from_broadcast(tuned)
    tuned.train()
    logger.info_rank0(report.trainable_line(tuned))
    for line in part_lines(tuned):
        logger.info_rank0(line)
    if args.model.print_param_status:
        logger.info_rank0(report.parameter_table(tuned))
    return tuned


def base_config(args: TrainArgs | InferArgs, trainable: bool, head: Head | None = None) -> Any:
    """The configuration that the base of a run is built by.

    Raises:
        ConfigError: It is of no language model, or of none that can be trained.
    """
    from .rope import scale_rope

    path = resolve_model_path(str(args.model.model_name_or_path), args.model)
    config = read_config(args.model)
    config = config.thinker_config if has_talker(config) else config
    known = type(config) in language_class(config)._model_mapping or head is not None
    if not known and "auto_map" not in config.to_dict():
        raise ConfigError(f"model_name_or_path: '{path}' is a {config.model_type} model, not a language model")
    if args.model.rope_scaling is not None:
        scale_rope(config, args.model.rope_scaling, args.data.cutoff_len)
    return config


def _load_base(
    args: TrainArgs | InferArgs, dtypes: Dtypes, device: Device, trainable: bool, in_training: bool, head: Head | None
) -> PreTrainedModel:
    import torch

    from ..hparams import TrainArgs
    from . import streaming
    from .merging import cast_weights

    path = resolve_model_path(str(args.model.model_name_or_path), args.model)
    options = hub_options(args.model)
    config = base_config(args, trainable, head)
    auto = language_class(config) if head is None else head.auto_class()
    if head is not None:
        head.configure(config)

    quantizer = choose_quantizer(args, config, path, device, trainable)
    zero = zero_of(args) if isinstance(args, TrainArgs) and in_training and trainable else None
    parted = zero is not None and zero.stage == 3
    sharding = sharding_of(args) if isinstance(args, TrainArgs) and in_training else None
    full = args.finetuning.finetuning_type == "full"
    dtype = getattr(torch, dtypes.trainable if trainable and full else dtypes.frozen)
    attention: str | None = _attention_of(config, args.model.flash_attn, in_training)
    if args.model.shift_attn and trainable:
        attention = _shifted(attention, config, args.data.cutoff_len)
    attention = by_part(attention, config)
    if args.model.train_from_scratch and trainable:
        model = auto.from_config(config, dtype=dtype, attn_implementation=attention)
        if sharding is not None or parted:  # it is moved part by part
            return model
        return model.to(f"{device.type}:{device.index}" if device.type != "cpu" else "cpu")
    _check_generation_config(path)
    quantizes = quantizer.quantizer is not None and not quantizer.is_stored
    place: Any = args.quantization.quantization_device_map or _device_map(device, in_training)
    if sharding is not None and quantizer.quantizer is not None:
        raise ConfigError(f"fsdp: '{path}' holds packed weights, which cannot be sharded; leave fsdp out")
    if parted or (sharding is not None and sharding.offload):
        place = None
    with returning_memory() if quantizes else nullcontext(), _slices(sharding, device) as make_slices:
        with in_one_line(f"model_name_or_path: '{path}' cannot be loaded as its config.json says"), quiet_report():
            model, info = auto.from_pretrained(
                path,
                config=config,
                dtype="auto" if quantizer.streams else dtype,  # only as they are can they stay in the file
                attn_implementation=attention,
                device_map=None if quantizer.streams else place,
                offload_folder=args.model.offload_folder,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # check_base refuses them, by name
                **options,
                **quantizer.options(dtypes, auto, config),
            )
        make_slices(model)
        check_base(model, info, path, head, quantizer.is_stored)
        if quantizer.streams:
            streaming.stream(model, quantizer, path, args.model.offload_folder, dtype, device)
        else:
            quantizer.settle(model, dtypes)
    if quantizer.is_dense:  # what the checkpoint had left whole has the type of the file
        cast_weights(model, dtype)
    return model


@contextmanager
def _slices(sharding: Sharding | None, device: Device) -> Iterator[Callable[[nn.Module], None]]:
    """Read weights in parts, if the run is sharded; gives what is to be done with the model that was loaded."""
    if sharding is None:
        yield lambda model: None
        return
    from .sharding.layers import cut_layers
    from .sharding.mesh import mesh_of
    from .sharding.slices import loading_parts, loading_slices, make_slices

    if sharding.key != "fsdp":
        with loading_parts(lambda model: cut_layers(model, sharding, device.type)):
            yield make_slices
        return

    with loading_slices(mesh_of(sharding, device.type)) as settle:
        yield settle


def will_isolate(args: ModelArguments) -> bool:
    """Whether the model, once loaded for training, keeps packed sequences apart; only its configuration is read."""
    from .attention import ISOLATING

    config = read_config(args)
    config = config.thinker_config if has_talker(config) else config
    return _attention_of(config, args.flash_attn, trainable=True) in ISOLATING


def may_pack_media(args: ModelArguments) -> Capability:
    """Whether rows of a model may be packed if some hold media; a model of text has none."""
    from .families.family import Capability, media_packing

    config = read_config(args)
    config = config.thinker_config if has_talker(config) else config
    return Capability(True) if not takes_media(config) else media_packing(config)


def _attention_of(config: Any, flash_attn: str, trainable: bool) -> str:
    return choose_attention(
        language_class(config)._model_mapping.get(type(config), None), config, flash_attn, trainable
    )


def by_part(attention: str | None, config: Any) -> str | None:
    """The attention that transformers is asked for: SDPA, its own choice, is refused where one tower has none."""
    return None if attention == "sdpa" and takes_media(config) else attention


def _shifted(attention: str | None, config: Any, context: int) -> str:
    """The name of shifted attention, which is made of the isolating one.

    Raises:
        ConfigError: This model cannot have it.
    """
    from .attention import ISOLATED, register_shifted
    from .families.family import isolation

    if attention != ISOLATED:
        model_class = language_class(config)._model_mapping.get(type(config), None)
        capability = model_class and isolation(model_class, config.get_text_config())
        why = capability.reason if capability else "its attention is remote code"
        raise ConfigError(f"shift_attn: this model cannot be trained with it: {why}")
    group = context // 4
    logger.info_rank0("Shifted attention in groups of %d tokens (cutoff_len / 4); all of it is seen when served", group)
    return register_shifted(group)


def _check_generation_config(path: str) -> None:
    """A base brings advice on how to generate; what is wrong with it is said with its name."""
    from transformers import GenerationConfig

    if (Path(path) / "generation_config.json").is_file():
        with in_one_line(f"model_name_or_path: '{path}': its generation_config.json cannot be used"):
            GenerationConfig.from_pretrained(path)


def choose_attention(model_class: type | None, config: Any, flash_attn: str, trainable: bool) -> str:
    """Name of the attention implementation transformers shall use.

    ``auto`` trains with the isolating attention where the model can be trusted with it; everything else, and inference,
    uses SDPA where it computes what the model means (it has no soft cap), else eager. An explicit choice is obeyed,
    but FlashAttention that is not there, which many files ask for that were written elsewhere, is said and left out.
    """
    from . import attention
    from .families.family import isolation

    if flash_attn in _EXPLICIT_ATTENTION and _is_there(flash_attn):
        return _EXPLICIT_ATTENTION[flash_attn]
    text = config.get_text_config()
    if model_class is None:  # remote code: what it supports is known only to itself
        return "sdpa"
    ordinary = attention.ordinary_implementation(model_class, text)
    if not trainable:
        return ordinary
    capability = isolation(model_class, text)
    if not capability.works:
        logger.info_once("Sequences are padded, not packed end to end: %s", capability.reason)
        return ordinary
    attention.register()
    return attention.ISOLATED


def _is_there(flash_attn: str) -> bool:
    from transformers.utils import is_flash_attn_2_available, is_flash_attn_3_available

    looks = {
        "fa2": (is_flash_attn_2_available, "pip install flash-attn"),
        "fa3": (is_flash_attn_3_available, "built from the folder hopper of github.com/Dao-AILab/flash-attention"),
    }
    if flash_attn not in looks or looks[flash_attn][0]():
        return True
    how = looks[flash_attn][1]
    logger.warning_once(
        f"flash_attn: {flash_attn} is left out, auto is used: it needs a CUDA GPU and its package ({how})"
    )
    return False


def _device_map(device: Device, trainable: bool) -> Any:
    """One device for training (ranks hold a copy each); all visible accelerators for a single inference process."""
    if device.type == "cpu":
        return None
    if not trainable and device.count > 1:
        return "auto"
    return {"": f"{device.type}:{device.index}"}


def _set_router_loss(model: PreTrainedModel, coefficient: float, trainable: bool) -> None:
    config = model.config.get_text_config()
    if not hasattr(config, "router_aux_loss_coef"):
        raise ConfigError(f"moe_aux_loss_coef: {config.model_type} has no router loss")
    config.router_aux_loss_coef = coefficient
    config.output_router_logits = trainable and coefficient > 0
