# SPDX-License-Identifier: Apache-2.0
"""What ``deepspeed`` (mapping, JSON file, or ``accelerate launch``) asks of DeepSpeed, with our keys in its gaps."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..extras.environment import is_env_enabled
from ..extras.files import read_json
from ..extras.logging import get_logger
from .field import require

if TYPE_CHECKING:
    from .args import TrainArgs

logger = get_logger(__name__)

LAUNCHED = "ACCELERATE_USE_DEEPSPEED"
AUTO = "auto"
# What is handed on to the engine as it is.
_OF_ENGINE = (
    "zero_optimization", "communication_data_type", "prescale_gradients", "gradient_predivide_factor",
    "wall_clock_breakdown", "memory_breakdown", "steps_per_print", "comms_logger", "dump_state",
    "zero_force_ds_cpu_optimizer",
)  # fmt: skip
# What our own keys say; the file may say the same, or ``auto``.
_OF_KEYS = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping",
            "bf16", "fp16", "optimizer")  # fmt: skip
# The last two stand in files of users, and DeepSpeed reads neither: its own are comms_logger and csv_monitor.
_NO_EFFECT = ("zero_allow_untested_optimizer", "activation_checkpointing", "comms_config", "monitor_config")
_OPTIMIZERS = ("adam", "adamw")
_OFFLOADS = ("offload_optimizer", "offload_param")
_BY_HIDDEN_SIZE = {  # as transformers fills them
    "reduce_bucket_size": lambda hidden: hidden * hidden,
    "stage3_prefetch_bucket_size": lambda hidden: int(0.9 * hidden * hidden),
    "stage3_param_persistence_threshold": lambda hidden: 10 * hidden,
}


@dataclass(frozen=True)
class Zero:
    """ZeRO (Rajbhandari et al. 2020) as a run asks for it.

    Attributes:
        stage: 1 shards the optimizer's state, 2 the gradients too, 3 the weights too.
        bf16: Where the run computes in bfloat16, the engine trains such weights and keeps float32 masters of them.
        given: The settings of the file that are the engine's own.
    """

    stage: int
    bf16: bool
    given: Mapping[str, Any]

    def config(self, batch: int, ranks: int, max_grad_norm: float, hidden_size: int, bf16: bool) -> dict[str, Any]:
        """Return what ``deepspeed.initialize`` gets; accumulation is counted by the trainer, so it knows of one step.

        Args:
            batch: Rows a process and micro-batch.
            ranks: Processes.
            max_grad_norm: 0 = no clipping.
            hidden_size: Of the model, for buckets that are ``auto``.
            bf16: The run computes in bfloat16.
        """
        made: dict[str, Any] = copy.deepcopy(dict(self.given))
        zero = made["zero_optimization"]
        for key, size in _BY_HIDDEN_SIZE.items():
            if zero.get(key) == AUTO:
                zero[key] = size(hidden_size)
        # Its own Adam is compiled at the first use; torch's computes on the CPU as well.
        made.setdefault("zero_force_ds_cpu_optimizer", False)
        made.setdefault("steps_per_print", 2**31)
        return made | {
            "train_micro_batch_size_per_gpu": batch,
            "gradient_accumulation_steps": 1,
            "train_batch_size": batch * ranks,
            "gradient_clipping": max_grad_norm,
            "bf16": {"enabled": self.bf16 and bf16},
            "zero_allow_untested_optimizer": True,
        }


def from_environment(variables: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """Return the key that ``accelerate launch`` hands on in variables; nothing if it was not asked for DeepSpeed."""
    if not is_env_enabled(LAUNCHED, variables=variables):
        return {}
    if file := variables.get("ACCELERATE_DEEPSPEED_CONFIG_FILE"):
        return {"deepspeed": file}
    zero: dict[str, Any] = {"stage": int(variables.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2"))}
    for part, name in (("offload_optimizer", "OPTIMIZER"), ("offload_param", "PARAM")):
        device = variables.get(f"ACCELERATE_DEEPSPEED_OFFLOAD_{name}_DEVICE", "none")
        if device != "none":
            zero[part] = {"device": device}
    return {"deepspeed": {"zero_optimization": zero, "bf16": {"enabled": AUTO}, "gradient_clipping": AUTO}}


def zero_of(args: TrainArgs) -> Zero | None:
    """Return how DeepSpeed is asked to shard a run; None without it, and for stage 0, which shards nothing.

    Raises:
        ConfigError: A setting is unknown, of the wrong kind, or contradicts a key.
    """
    given = _read(args.training.deepspeed)
    if not given:
        return None
    _check_names(given)
    _check_keys(given, args)
    zero = given.get("zero_optimization", {})
    require(isinstance(zero, Mapping), f"deepspeed: zero_optimization: {zero!r}; expected a mapping")
    stage = zero.get("stage", 0)
    require(stage in (0, 1, 2, 3), f"deepspeed: zero_optimization: stage: {stage!r}; expected 0, 1, 2 or 3")
    for part in _OFFLOADS:
        device = (zero.get(part) or {}).get("device", "none")
        require(device in ("none", "cpu"), f"deepspeed: {part}: device: {device}; expected none or cpu")
        require(part != "offload_param" or device == "none" or stage == 3, "deepspeed: offload_param needs stage: 3")
    for key, value in zero.items():
        require(value != AUTO or key in _BY_HIDDEN_SIZE, f"deepspeed: zero_optimization: {key}: auto; give a value")
    if stage == 0:
        logger.info_once("deepspeed: stage 0 shards nothing: plain data parallelism trains the same")
        return None
    own = {key: given[key] for key in _OF_ENGINE if key in given}
    return Zero(stage, _engine_rounds(given, args), own)


def _read(value: Mapping[str, Any] | str | None) -> dict[str, Any]:
    if isinstance(value, str) and value:
        return read_json(Path(value).expanduser(), dict, "deepspeed")
    return dict(value or {})


def _check_names(given: Mapping[str, Any]) -> None:
    for key, value in given.items():
        if key in _NO_EFFECT or key.startswith("_"):  # "_comment"
            logger.info_once(f"deepspeed: {key}: makes no difference")
        elif key not in (*_OF_ENGINE, *_OF_KEYS):
            off = isinstance(value, Mapping) and value.get("enabled") is False
            known = ", ".join((*_OF_ENGINE, *_OF_KEYS, *_NO_EFFECT))
            require(off, f"deepspeed: {key} is not read here; leave it out (read: {known})")


def _check_keys(given: Mapping[str, Any], args: TrainArgs) -> None:
    """What the file says of our own keys is what they say."""
    training = args.training
    said = {
        "train_micro_batch_size_per_gpu": ("per_device_train_batch_size", training.per_device_train_batch_size),
        "gradient_accumulation_steps": ("gradient_accumulation_steps", training.gradient_accumulation_steps),
        "gradient_clipping": ("max_grad_norm", training.max_grad_norm),
    }
    for key, (name, value) in said.items():
        _require_equal(key, given.get(key, AUTO), name, value)
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    batch = training.per_device_train_batch_size * training.gradient_accumulation_steps * ranks
    if ranks > 1:
        _require_equal("train_batch_size", given.get("train_batch_size", AUTO), "batch × accumulation × ranks", batch)
    optimizer = given.get("optimizer")
    if optimizer is None:
        return
    kind = str(optimizer.get("type", "")).lower()
    require(kind in _OPTIMIZERS, f"deepspeed: optimizer: type: {optimizer.get('type')}; give it by optim, leave it out")
    values = {
        "lr": ("learning_rate", training.learning_rate),
        "betas": ("adam_beta1, adam_beta2", [training.adam_beta1, training.adam_beta2]),
        "eps": ("adam_epsilon", training.adam_epsilon),
        "weight_decay": ("weight_decay", training.weight_decay),
    }
    for key, value in (optimizer.get("params") or {}).items():
        require(key in values, f"deepspeed: optimizer: {key} is not read here; leave it out")
        _require_equal(f"optimizer: {key}", value, *values[key])


def _require_equal(name: str, value: Any, key: str, ours: Any) -> None:
    require(
        value in (AUTO, ours),
        f"deepspeed: {name}: {value}, but {key} is {ours}; write auto there and let the key say it",
    )


def _engine_rounds(given: Mapping[str, Any], args: TrainArgs) -> bool:
    """Whether the engine's weights are bfloat16 where the run is."""
    for kind in ("bf16", "fp16"):
        value = (given.get(kind) or {}).get("enabled", False)
        require(value in (True, False, AUTO), f"deepspeed: {kind}: enabled: {value!r}; expected true, false or auto")
        require(
            value is not True or getattr(args.training, kind),
            f"deepspeed: {kind}: enabled: true, but the key {kind} does not say so; write auto there, or {kind}: true",
        )
    return (given.get("bf16") or {}).get("enabled", False) in (True, AUTO)
