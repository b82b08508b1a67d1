# SPDX-License-Identifier: Apache-2.0
"""Our training section as transformers' arguments: one pure conversion, with what this project decides differently."""

from __future__ import annotations

import dataclasses
import os
from typing import TYPE_CHECKING, Any

from transformers import Seq2SeqTrainingArguments

from ..extras.device import probe
from ..extras.errors import ConfigError
from ..hparams import deepspeed, resolve_dtypes, sharding
from ..hparams.deepspeed import zero_of
from ..hparams.derive import chosen_optimizer
from ..hparams.inner_settings import optimizer_settings, schedule_settings
from ..hparams.metrics import default_metric
from ..hparams.parallelism import CONTEXT, EXPERT, TENSOR
from ..hparams.sharding import sharding_of
from .callbacks.reporters import trackers
from .process_group import rejoin

if TYPE_CHECKING:
    from ..hparams import TrainArgs


class TrainingArguments(Seq2SeqTrainingArguments):
    """Transformers pickles its arguments into the folder that it pushes: the token stays out of them."""

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "hub_token": None}

    @property
    def place_model_on_device(self) -> bool:
        """A sharded model is where it belongs; as a whole it might not fit."""
        return False if self.shards else super().place_model_on_device

    shards = False
    context_size = 1  # processes that share each row, a part of its tokens each
    tensor_size = 1  # processes that share each layer, and all rows

    @property
    def sharers(self) -> int:
        """Processes that have the same rows."""
        return self.context_size * self.tensor_size

    @property
    def data_rank(self) -> int:
        """Which part of the rows of a step this process takes."""
        return int(self.process_index) // self.sharers

    @property
    def data_size(self) -> int:
        """Parts that the rows of a step are dealt in."""
        return int(self.world_size) // self.sharers


def transformers_arguments(args: TrainArgs) -> TrainingArguments:
    """Return what ``transformers.Trainer`` needs to know of ``args``.

    Raises:
        ConfigError: A rule of transformers between its own keys is broken.
    """
    known = {field.name for field in dataclasses.fields(Seq2SeqTrainingArguments) if field.init}
    given = {
        field.name: getattr(args.training, field.name)
        for field in dataclasses.fields(args.training)
        if field.name in known and getattr(args.training, field.name) is not None
    }
    strategy = args.training.train_sampling_strategy
    if strategy == "batch_rebalance":
        raise ConfigError(
            f"train_sampling_strategy: {strategy} is not built; use random, sequential or group_by_length"
        )
    _take_over(args)
    decided = _decided_here(args)
    rejoin(decided["ddp_backend"], args.training.ddp_timeout)
    try:
        made = TrainingArguments(**{**given, **decided})
        zero = zero_of(args)
        made.shards = sharding_of(args) is not None or (zero is not None and zero.stage == 3)
        training, processes = args.training, made.world_size
        made.context_size = _group_size(CONTEXT, training.context_parallel_size, "share each row", processes)
        made.tensor_size = _group_size(TENSOR, training.tensor_parallel_size, "share each layer", processes)
        _group_size(EXPERT, training.expert_parallel_size, "share the experts", processes)
        return made
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"training arguments: {' '.join(str(error).split())}") from error


def _decided_here(args: TrainArgs) -> dict[str, Any]:
    training, device = args.training, probe(args.training.use_cpu)
    dtypes = resolve_dtypes(args, device)
    on_cpu = device.type == "cpu"
    return {
        # Autocast only where the weights are wider than the arithmetic; LoRA on bf16 weights needs none.
        "bf16": dtypes.autocast and dtypes.compute == "bfloat16",
        # Also for adapters over float16 weights: without its scaling of the loss small gradients are 0 in float16.
        "fp16": dtypes.compute == "float16",
        "use_cpu": on_cpu,
        "ddp_backend": training.ddp_backend or ("gloo" if on_cpu else None) if _is_distributed() else None,
        # Blocks that LISA has frozen give no gradient that the others could wait for; nor do towers, without media.
        "ddp_find_unused_parameters": bool(training.ddp_find_unused_parameters)
        or _samples_layers(args)
        or _trains_senses(args),
        "fsdp": None,  # accelerate would wrap the model itself; see model/sharding and distributed/zero.py
        "fsdp_config": None,
        "deepspeed": None,
        "dataloader_pin_memory": training.dataloader_pin_memory and not on_cpu,
        "average_tokens_across_devices": True,
        "lr_scheduler_kwargs": schedule_settings(training),
        **_optimizer(args),
        "metric_for_best_model": training.metric_for_best_model or default_metric(args),
        "report_to": [name for name in trackers(args) if name != "swanlab"],  # it brings its own callback
        # Features carry more than the model's own inputs; the trainer picks what it passes on.
        "remove_unused_columns": False,
        "label_names": ["labels"],
        # The model room has already decided on recomputation and kernels.
        "activation_checkpointing": False,
        "gradient_checkpointing": False,
        "use_liger_kernel": False,
        "neftune_noise_alpha": None,  # callbacks/neftune.py adds it
        # Non-finite losses are the guard's business, rotation and signals are ours too.
        "logging_nan_inf_filter": False,
        "save_total_limit": None,
        "enable_jit_checkpoint": False,
        "bf16_full_eval": False,
        "fp16_full_eval": False,
        # Ours are shown; transformers would decide by the level at which it may speak.
        "disable_tqdm": bool(training.disable_tqdm),
        "hub_token": training.hub_token or args.model.hf_hub_token,
        # A resumed run must know, for example, how long early stopping has been patient.
        "restore_callback_states_from_checkpoint": True,
        "resume_from_checkpoint": None,
    }


def _take_over(args: TrainArgs) -> None:
    """Keep transformers and accelerate from sharding, loading or rounding by the variables of ``accelerate launch``."""
    os.environ.pop("ACCELERATE_MIXED_PRECISION", None)  # transformers sets it as it is told
    cut = sharding_of(args)
    key = cut.key if cut else "deepspeed" if zero_of(args) else None
    for variable in (sharding.LAUNCHED, deepspeed.LAUNCHED):
        os.environ.pop(variable, None)
    if key is not None and not _is_distributed():
        raise ConfigError(
            f"{key}: shards a model over several processes, and this is one; start with FORCE_TORCHRUN=1 and "
            f"NPROC_PER_NODE=<number>, or leave {key} out"
        )


def _group_size(key: str, size: int, what: str, processes: int) -> int:
    if processes % size:
        raise ConfigError(
            f"{key}: {size} processes {what}, and {processes} cannot be put in such groups; "
            f"start with FORCE_TORCHRUN=1 and NPROC_PER_NODE={size}, or a multiple of it"
        )
    return size


def _samples_layers(args: TrainArgs) -> bool:
    return getattr(args.tuner, "lisa_activated_layers", None) is not None


def _trains_senses(args: TrainArgs) -> bool:
    """Whether parts may be trained that some batches have nothing for."""
    finetuning = args.finetuning
    frozen = finetuning.freeze_vision_tower and finetuning.freeze_multi_modal_projector
    return not frozen or bool(getattr(args.tuner, "additional_target", None))


def _optimizer(args: TrainArgs) -> dict[str, Any]:
    """Transformers is told of an optimizer that it makes, and of AdamW in the place of one that is made here."""
    if chosen_optimizer(args) not in (None, "loraplus"):
        return {"optim": "adamw_torch", "optim_args": None, "optim_target_modules": None}
    settings = optimizer_settings(args.training)
    if args.finetuning.stochastic_rounding:
        settings["bf16_stochastic_round"] = True
    return {"optim_args": ",".join(f"{name}={value}" for name, value in settings.items()) or None}


def _is_distributed() -> bool:
    return "LOCAL_RANK" in os.environ
