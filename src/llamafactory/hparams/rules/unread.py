# SPDX-License-Identifier: Apache-2.0
"""Keys that nothing in a run reads, because they belong to another tuner, stage or switch than the chosen ones.

A key that asks for a feature is refused: the run would be another than the one asked for. A key that only tunes a
feature is named in a warning instead, since files that people pass on often carry such numbers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ... import plugins
from ...extras.errors import ConfigError
from ...extras.logging import get_logger
from ..field import require
from ..model_args import QuantizationArguments
from ..schema import declared_keys, keys_of, tuner_arguments

if TYPE_CHECKING:
    from ..args import TrainArgs

logger = get_logger(__name__)

# Stages -> the keys of preferences, rewards and rollouts that they read.
STAGES: dict[tuple[str, ...], tuple[str, ...]] = {
    ("rm",): ("center_rewards_coefficient",),
    ("rm", "dpo"): ("share_prompt",),
    ("dpo",): ("pref_loss", "pref_bco_weight", "dpo_label_smoothing", "simpo_gamma", "ld_alpha"),
    ("kto",): ("kto_chosen_weight", "kto_rejected_weight"),
    ("dpo", "kto"): ("pref_beta", "pref_ftx", "cache_ref_log_probs"),
    ("sft", "dpo", "kto", "ppo", "grpo"): ("ref_model", "ref_model_adapters", "ref_model_quantization_bit"),
    ("ppo",): ("ppo_buffer_size", "ppo_epochs", "ppo_score_norm", "ppo_target", "ppo_whiten_rewards"),
    ("grpo",): (
        "loss_type", "num_generations", "num_iterations", "beta", "epsilon", "epsilon_high", "delta", "scale_rewards",
        "mask_truncated_completions", "dynamic_sampling",
    ),
    ("ppo", "grpo"): (
        "reward_model", "reward_model_adapters", "reward_model_quantization_bit", "reward_model_type", "reward_funcs",
        "reward_weights", "rollout_tools", "rollout_environment", "max_tool_rounds", "eval_rollouts",
    ),
    ("ppo", "grpo", "gkd"): ("rollout_engine", "rollout_batch_size"),
    ("gkd",): (
        "gkd_beta", "gkd_temperature", "gkd_lambda", "teacher_model_name_or_path", "teacher_model",
        "teacher_model_adapters", "teacher_model_quantization_bit",
    ),
    ("classification",): ("problem_type", "class_names"),
    ("reranker",): ("reranker_loss",),
    ("embedding",): (
        "pooling", "embedding_loss", "embedding_temperature", "embedding_dims", "query_prompt", "document_prompt",
    ),
}  # fmt: skip

# Switch -> the keys that only it reads, by the beginning of their names.
SWITCHES: dict[str, tuple[str, ...]] = {
    "use_asft_loss": ("asft_",),
    "use_eaft_loss": ("eaft_",),
    "use_galore": ("galore_",),
    "use_apollo": ("apollo_",),
    "use_badam": ("badam_",),
    "fp8": ("fp8_",),
    "use_ray": ("ray_", "resources_per_worker", "placement_strategy"),
}

# Keys of Adam's moments -> beginnings of the names of optimizers that have no such number.
_NO_MOMENTS = ("adafactor", "galore_adafactor", "sgd", "adagrad", "rmsprop", "schedule_free_sgd", "lomo", "adalomo")
MOMENTS: dict[str, tuple[str, ...]] = {
    "adam_beta1": _NO_MOMENTS,
    "adam_beta2": _NO_MOMENTS,
    "adam_epsilon": (*_NO_MOMENTS, "lion", "paged_lion"),
}

# Keys that tune a feature and ask for none; every other key of a part that is not chosen is refused.
TUNING = frozenset((
    "lora_rank", "lora_alpha", "lora_dropout", "lora_target", "loraplus_lr_embedding", "pissa_iter", "loftq_iter",
    "module_dropout", "oft_rank", "oft_block_size", "oft_target", "lisa_interval_steps",
    "pref_beta", "simpo_gamma", "kto_chosen_weight", "kto_rejected_weight", "share_prompt", "cache_ref_log_probs",
    "ppo_buffer_size", "ppo_epochs", "ppo_target", "reward_model_type", "reward_weights", "rollout_engine",
    "rollout_batch_size", "max_tool_rounds", "eval_rollouts", "num_generations", "num_iterations", "epsilon",
    "epsilon_high", "delta", "asft_alpha", "eaft_alpha", "galore_target", "galore_rank", "galore_update_interval",
    "galore_scale", "galore_proj_type", "apollo_target", "apollo_rank", "apollo_update_interval", "apollo_scale",
    "apollo_proj", "apollo_proj_type", "apollo_scale_type", "badam_mode", "badam_start_block", "badam_switch_mode",
    "badam_switch_interval", "badam_update_ratio", "badam_mask_mode", "badam_verbose", "fp8_backend", "qat_group_size",
    "ray_num_workers", "ray_init_kwargs", "ray_run_name", "ray_storage_path", "ray_max_failures",
    "resources_per_worker", "placement_strategy", "gkd_beta", "gkd_temperature", "embedding_temperature",
    "adam_beta1", "adam_beta2", "adam_epsilon",
))  # fmt: skip


def check_training(args: TrainArgs) -> None:
    """Refuse the first key that asks for a feature of a part which is not chosen; warn of those that tune one.

    A key that is switched off, or written with its default, is never refused.
    """
    said: dict[str, list[str]] = {}
    unread = {**_of_other_tuners(args), **_of_other_stages(args), **_of_quantization(args), **_of_switches(args)}
    unread |= _of_modes(args)
    optim = args.training.optim
    unread |= {key: f"optim: {optim} has no such number" for key, names in MOMENTS.items() if optim.startswith(names)}
    if args.qat.qat == "none":
        unread["qat_group_size"] = "needs qat, which is not given"
    for key in args.keys:
        value, default = _typed(key, args.keys[key]) if key in unread else (None, None)
        if value:
            require(key in TUNING or value == default, f"{key}: {unread[key]}")
            said.setdefault(unread[key], []).append(key)
    for reason, keys in said.items():
        logger.warning_once(f"{', '.join(keys)}: no effect in this run; {reason}")


def _of_other_tuners(args: TrainArgs) -> dict[str, str]:
    """Return each key that only other tuners declare, and why it is not read."""
    chosen = args.finetuning.finetuning_type
    owners: dict[str, list[str]] = {}
    for name in plugins.names("tuners"):
        for key in keys_of(tuner_arguments(name)):
            owners.setdefault(key, []).append(name)
    return {
        key: f"only for finetuning_type {_some(names)}, not {chosen}"
        for key, names in owners.items()
        if chosen not in names
    }


def _some(names: list[str]) -> str:
    return " or ".join(names if len(names) < 6 else [names[0], "another method of PEFT"])


def _of_other_stages(args: TrainArgs) -> dict[str, str]:
    """Return each key that only other stages read, and why it is not read."""
    chosen = args.finetuning.stage
    if chosen not in plugins.STAGES:  # a stage of another package may read any of them
        return {}
    return {
        key: f"only for stage {' or '.join(stages)}, not {chosen}"
        for stages, keys in STAGES.items()
        if chosen not in stages
        for key in keys
    }


def _of_quantization(args: TrainArgs) -> dict[str, str]:
    """Return the keys that say how to quantize when nothing says that a model shall be."""
    rlhf = args.rlhf
    given = (
        args.quantization.quantization_bit,
        rlhf.ref_model_quantization_bit,
        rlhf.reward_model_quantization_bit,
        rlhf.teacher_model_quantization_bit,
    )
    if any(bits is not None for bits in given):
        return {}
    return dict.fromkeys(keys_of(QuantizationArguments), "needs quantization_bit, which is not given")


def _of_switches(args: TrainArgs) -> dict[str, str]:
    """Return the keys of features whose switch is off."""
    switched = {**vars(args.finetuning), **vars(args.galore), **vars(args.apollo), **vars(args.badam), **vars(args.fp8)}
    switched |= vars(args.ray)
    return {
        key: f"needs {switch}: true, which is not given"
        for switch, beginnings in SWITCHES.items()
        if not switched[switch]
        for key in switched
        if key.startswith(beginnings)
    }


def _of_modes(args: TrainArgs) -> dict[str, str]:
    """Return the keys of one way of doing something where another is chosen."""
    tuner, ratio = args.tuner, args.badam.badam_mode == "ratio"
    found = {
        "pissa_iter": "needs pissa_init: true, which is not given" if not getattr(tuner, "pissa_init", True) else "",
        "loftq_iter": "needs lora_init: loftq, which is not given"
        if getattr(tuner, "lora_init", "") != "loftq"
        else "",
        "loraplus_lr_embedding": "needs loraplus_lr_ratio, which is not given"
        if getattr(tuner, "loraplus_lr_ratio", None) is None
        else "",
    }
    if args.badam.use_badam:
        others = ("badam_start_block", "badam_switch_mode") if ratio else ("badam_update_ratio", "badam_mask_mode")
        found |= dict.fromkeys(others, f"only for badam_mode {'layer' if ratio else 'ratio'}")
    return {
        key: why for key, why in found.items() if why and hasattr(args.tuner if "badam" not in key else args.badam, key)
    }


def _typed(key: str, value: Any) -> tuple[Any, Any]:
    """Return a value with the type its key declares, and the key's default; a value of a wrong type stays as it is."""
    declared = declared_keys().get(key)
    if declared is None:
        return value, None
    try:
        return declared.read(value), declared.default
    except ConfigError:
        return value, declared.default
