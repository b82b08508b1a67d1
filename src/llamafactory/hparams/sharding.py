# SPDX-License-Identifier: Apache-2.0
"""How a run is sharded: ``fsdp``, ``fsdp_config`` (mapping or file) and what ``accelerate launch`` says, read alike.

Or its layers are: ``tensor_parallel_size``, ``expert_parallel_size``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ..extras.environment import is_env_enabled
from ..extras.errors import ConfigError
from ..extras.files import read_text
from ..extras.logging import get_logger
from .coercion import coerce
from .field import require, split_list
from .parallelism import EXPERT, TENSOR

if TYPE_CHECKING:
    from .args import TrainArgs

logger = get_logger(__name__)

LAUNCHED = "ACCELERATE_USE_FSDP"
_VARIABLES = (
    "FSDP_VERSION", "FSDP_SHARDING_STRATEGY", "FSDP_RESHARD_AFTER_FORWARD", "FSDP_OFFLOAD_PARAMS",
    "FSDP_MIN_NUM_PARAMS", "FSDP_AUTO_WRAP_POLICY", "FSDP_TRANSFORMER_CLS_TO_WRAP", "FSDP_BACKWARD_PREFETCH",
    "FSDP_STATE_DICT_TYPE", "FSDP_FORWARD_PREFETCH", "FSDP_USE_ORIG_PARAMS", "FSDP_CPU_RAM_EFFICIENT_LOADING",
    "FSDP_SYNC_MODULE_STATES", "FSDP_ACTIVATION_CHECKPOINTING", "FSDP_ACTIVATION_CHECKPOINTING_OFFLOAD",
    "FSDP_IGNORED_MODULES",
)  # fmt: skip
# Word -> whether weights are given back after the forward pass, whether there are replicas of the shards.
_STRATEGIES = {
    "full_shard": (True, False),
    "shard_grad_op": (False, False),
    "hybrid_shard": (True, True),
    "hybrid_shard_zero2": (False, True),
}
_NUMBERS = {"1": "full_shard", "2": "shard_grad_op", "3": "no_shard", "4": "hybrid_shard", "5": "hybrid_shard_zero2"}
_OTHER_NAMES = {
    "offload_params": "cpu_offload",
    "transformer_cls_to_wrap": "transformer_layer_cls_to_wrap",
    "transformer_cls_names_to_wrap": "transformer_layer_cls_to_wrap",
}
_KEYS = (
    "version", "sharding_strategy", "reshard_after_forward", "cpu_offload", "auto_wrap_policy",
    "transformer_layer_cls_to_wrap", "activation_checkpointing", "dp_replicate_size",
)  # fmt: skip
# They tune the older engine, or ask for what is done anyhow.
_NO_EFFECT = (
    "backward_prefetch", "forward_prefetch", "use_orig_params", "sync_module_states", "limit_all_gathers",
    "cpu_ram_efficient_loading", "state_dict_type", "min_num_params",
)  # fmt: skip
# What they ask for, unless it is nothing.
_NOT_BUILT = ("xla", "xla_fsdp_v2", "xla_fsdp_settings", "xla_fsdp_grad_ckpt", "ignored_modules",
              "activation_checkpointing_offload", "mixed_precision_policy")  # fmt: skip
_NOTHING: tuple[Any, ...] = (None, "", False, "false", "False", "none", "None", {}, [])
# Of a file of `accelerate config`: they are for `accelerate launch`, or said by other keys.
_OF_LAUNCHER = (
    "compute_environment", "debug", "distributed_type", "downcast_bf16", "enable_cpu_affinity", "gpu_ids",
    "machine_rank", "main_process_ip", "main_process_port", "main_training_function", "mixed_precision",
    "num_machines", "num_processes", "rdzv_backend", "same_network", "tpu_env", "tpu_use_cluster", "tpu_use_sudo",
    "use_cpu", "fsdp_config",
)  # fmt: skip


@dataclass(frozen=True)
class Sharding:
    """Fully sharded data parallelism as a run asks for it.

    Attributes:
        reshard: Give gathered weights back after the forward pass; else after the backward pass.
        replicas: Groups of processes that hold a whole model each; 0 = one a node.
        offload: Keep weights, gradients and the optimizer's state in host memory.
        layers: Names of the classes whose modules are gathered one at a time; () = as the model says.
        wraps: False = the whole model is gathered at once.
        checkpointing: Compute activations again; else other keys say whether.
        tensor: Processes that share each layer and compute the same rows (:data:`TENSOR`).
        expert: Processes that share the experts of each layer (:data:`EXPERT`).
    """

    reshard: bool = True
    replicas: int = 1
    offload: bool = False
    layers: tuple[str, ...] = ()
    wraps: bool = True
    checkpointing: bool = False
    tensor: int = 1
    expert: int = 1

    @property
    def key(self) -> str:
        """The key that asks for it."""
        return TENSOR if self.tensor > 1 else EXPERT if self.expert > 1 else "fsdp"


def from_environment(variables: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """Return the keys that ``accelerate launch`` hands on in variables; nothing if it was not asked to shard."""
    if not is_env_enabled(LAUNCHED, variables=variables):
        return {}
    said = {name[5:].lower(): variables[name] for name in _VARIABLES if name in variables}
    # It always sets both of these, one to its default.
    if said.get("version") == "2" or said.get("reshard_after_forward", "true") not in ("true", "false"):
        said.pop("sharding_strategy", None)
    else:
        said.pop("reshard_after_forward", None)
    return {"fsdp": True, "fsdp_config": {key: value for key, value in said.items() if value not in _NOTHING}}


def sharding_of(args: TrainArgs) -> Sharding | None:
    """Return how a run is sharded, None if it is not.

    Raises:
        ConfigError: A key or a word is unknown, of the wrong type, or contradicts another.
    """
    words, given = _words(args.training.fsdp), args.training.fsdp_config
    tensor, expert = args.training.tensor_parallel_size, args.training.expert_parallel_size
    if tensor > 1 or expert > 1:
        require(tensor == 1 or expert == 1, f"{TENSOR} and {EXPERT}: one of the two may be more than 1")
        key = TENSOR if tensor > 1 else EXPERT
        require(not words and not given, f"{key}: not with fsdp; leave one of the two out")
        return Sharding(wraps=False, tensor=tensor, expert=expert)
    if not words and not given:
        return None
    require(args.training.fsdp is not False, "fsdp: false contradicts fsdp_config, which is given; leave one out")
    config = _config(given)
    strategies = [word for word in words if word not in ("offload", "auto_wrap", "true")]
    require(len(strategies) < 2, f"fsdp: {' and '.join(strategies)}: choose one")
    reshard, hybrid = _strategy(strategies[0] if strategies else None, config)
    policy = str(config.get("auto_wrap_policy", "TRANSFORMER_BASED_WRAP")).upper()
    require(
        policy in ("TRANSFORMER_BASED_WRAP", "NO_WRAP"),
        f"fsdp_config: auto_wrap_policy: {policy}; expected TRANSFORMER_BASED_WRAP or NO_WRAP (a group is a layer)",
    )
    require(
        policy != "NO_WRAP" or "auto_wrap" not in words,
        "fsdp: auto_wrap contradicts fsdp_config: auto_wrap_policy: NO_WRAP",
    )
    return Sharding(
        reshard=reshard,
        replicas=_replicas(config, hybrid),
        offload="offload" in words or _flag(config, "cpu_offload"),
        layers=_names(config.get("transformer_layer_cls_to_wrap")),
        wraps=policy != "NO_WRAP",
        checkpointing=_flag(config, "activation_checkpointing"),
    )


def _words(value: str | bool | list[str] | None) -> list[str]:
    """Return the words of ``fsdp``, as transformers' users write them: ``full_shard auto_wrap``."""
    if isinstance(value, bool) or value is None:
        return ["true"] if value else []
    words = " ".join(value).split() if isinstance(value, list) else value.replace(",", " ").split()
    words = [word.lower() for word in words if word.lower() not in ("false", "none")]
    known = (*_STRATEGIES, "offload", "auto_wrap", "true")
    for word in words:
        require(word != "no_shard", "fsdp: no_shard is plain data parallelism; leave fsdp out")
        require(word in known, f"fsdp: {word}; expected {', '.join(known)}")
    return words


def _config(given: Mapping[str, Any] | str | None) -> dict[str, Any]:
    """Return the settings by the newer of their names."""
    found = _read(given) if isinstance(given, str) else dict(given or {})
    config: dict[str, Any] = {}
    for key, value in found.items():
        short = str(key).removeprefix("fsdp_").lower()
        name = _OTHER_NAMES.get(short, short)
        if name in _NO_EFFECT:
            logger.info_once(f"fsdp_config: {key}: makes no difference")
        elif name in _NOT_BUILT:
            require(value in _NOTHING, f"fsdp_config: {key}: {value} asks for what is not built; leave it out")
        elif name not in _KEYS:
            raise ConfigError(f"fsdp_config: unknown key {key}; expected {', '.join((*_KEYS, *_NO_EFFECT))}")
        elif config.get(name, value) != value:
            raise ConfigError(f"fsdp_config: {name} is given twice: {config[name]} and {value}")
        elif value is not None:
            config[name] = value
    version = str(config.get("version", 2))
    require(version in ("1", "2"), f"fsdp_config: version: {version}; expected 1 or 2")
    if version == "1":
        logger.info_once("fsdp_config: version: 1 is run as version 2, with the same sums")
    return config


def _read(name: str) -> dict[str, Any]:
    """Read a file of settings, or the part of a file of ``accelerate config`` that is about sharding."""
    path = Path(name).expanduser()
    text = read_text(path, "fsdp_config")
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"fsdp_config: {path} is no YAML or JSON: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"fsdp_config: {path}: expected keys and values")
    if "distributed_type" not in content:
        return content
    kind = str(content["distributed_type"]).upper()
    require(kind == "FSDP", f"fsdp_config: {path}: distributed_type: {kind}; expected FSDP")
    unknown = sorted(set(content) - set(_OF_LAUNCHER))
    require(not unknown, f"fsdp_config: {path}: {', '.join(unknown)}: not read here; leave it out")
    settings = content.get("fsdp_config")
    if not isinstance(settings, dict):
        raise ConfigError(f"fsdp_config: {path} has no mapping fsdp_config")
    return settings


def _strategy(word: str | None, config: Mapping[str, Any]) -> tuple[bool, bool]:
    """Return what ``fsdp``, ``sharding_strategy`` and ``reshard_after_forward`` say together."""
    said: dict[str, tuple[bool, bool | None]] = {} if word is None else {f"fsdp: {word}": _STRATEGIES[word]}
    for key in ("sharding_strategy", "reshard_after_forward"):
        if key in config:
            value = str(config[key]).lower()
            value = _NUMBERS.get(value, value)
            if key == "reshard_after_forward" and value in ("true", "false"):
                said[f"{key}: {value}"] = (value == "true", None)
                continue
            expected = ", ".join(_STRATEGIES) + (", true, false" if key == "reshard_after_forward" else "")
            require(value in _STRATEGIES, f"fsdp_config: {key}: {config[key]}; expected {expected}")
            said[f"{key}: {value}"] = _STRATEGIES[value]
    words = " and ".join(said)
    reshard, hybrid = {one for one, _ in said.values()}, {one for _, one in said.values() if one is not None}
    require(len(reshard) < 2 and len(hybrid) < 2, f"fsdp_config: {words} contradict each other")
    return reshard.pop() if reshard else True, hybrid.pop() if hybrid else False


def _replicas(config: Mapping[str, Any], hybrid: bool) -> int:
    if "dp_replicate_size" not in config:
        return 0 if hybrid else 1
    replicas: int = coerce("fsdp_config: dp_replicate_size", config["dp_replicate_size"], int)
    require(replicas >= 1, f"fsdp_config: dp_replicate_size: {replicas}, expected 1 or more")
    require(not hybrid or replicas > 1, "fsdp_config: dp_replicate_size: 1 contradicts hybrid_shard")
    return replicas


def _flag(config: Mapping[str, Any], key: str) -> bool:
    return bool(coerce(f"fsdp_config: {key}", config.get(key, False), bool))


def _names(value: str | list[str] | None) -> tuple[str, ...]:
    return tuple(value) if isinstance(value, list) else tuple(split_list(value))
