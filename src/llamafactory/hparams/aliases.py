# SPDX-License-Identifier: Apache-2.0
"""Older names of keys, older words for values, and keys that do nothing any more: mapped or dropped, and said once."""

from __future__ import annotations

import os
from typing import Any

from ..extras.errors import ConfigError
from ..extras.logging import get_logger
from .coercion import TRUE_WORDS, as_written, coerce
from .ranges import BELOW_1, Range
from .reader import Flat

logger = get_logger(__name__)

# Only the name changed.
RENAMED: dict[str, str] = {
    # transformers
    "evaluation_strategy": "eval_strategy",
    "no_cuda": "use_cpu",
    "per_gpu_train_batch_size": "per_device_train_batch_size",
    "per_gpu_eval_batch_size": "per_device_eval_batch_size",
    "push_to_hub_model_id": "hub_model_id",
    "push_to_hub_token": "hub_token",
    # A share of all steps: warmup_steps takes a value below 1 as just that.
    "warmup_ratio": "warmup_steps",
    "xpu_backend": "ddp_backend",
    # LLaMA-Factory
    "cache_path": "tokenized_path",
    "checkpoint_dir": "adapter_name_or_path",
    "dpo_beta": "pref_beta",
    "dpo_ftx": "pref_ftx",
    "dpo_loss": "pref_loss",
    "name_module_trainable": "freeze_trainable_modules",
    "new_special_tokens": "add_special_tokens",
    "num_layer_trainable": "freeze_trainable_layers",
    "train_last_turn_only": "mask_history",
}

# What an older name took, where the newer one takes more.
RENAMED_WITHIN: dict[str, Range] = {"warmup_ratio": BELOW_1}

# A switch became a value: switch -> the keys and values that it stood for; switched off it meant their defaults.
SWITCHED: dict[str, dict[str, Any]] = {
    "adafactor": {"optim": "adafactor"},
    "group_by_length": {"train_sampling_strategy": "group_by_length"},
    "include_inputs_for_metrics": {"include_for_metrics": ["inputs"]},
    "include_tokens_per_second": {"include_num_input_tokens_seen": "all"},
    "train_mm_proj_only": {"freeze_language_model": True, "freeze_multi_modal_projector": False},
}

# Older words for a value: key -> older word -> what it is called now.
REWORDED: dict[str, dict[Any, str]] = {
    "export_device": {"cuda": "auto", "gpu": "auto"},
    "flash_attn": {"false": "disabled", "off": "disabled", "eager": "disabled", "true": "fa2"},
    "quantization_method": {"bitsandbytes": "bnb"},
}

# Nothing reads these any more -> what to know instead.
DROPPED: dict[str, str] = {
    "dispatch_batches": "give it in accelerator_config",
    "fp16_backend": "float16 has one backend now",
    "fp16_opt_level": "it belonged to NVIDIA Apex",
    "fsdp_min_num_params": "give min_num_params in fsdp_config",
    "fsdp_transformer_layer_cls_to_wrap": "give transformer_layer_cls_to_wrap in fsdp_config",
    "half_precision_backend": "float16 has one backend now",
    "image_resolution": "see image_max_pixels",
    "jit_mode_eval": "see torch_compile",
    "logging_dir": "trackers write below output_dir; TENSORBOARD_LOGGING_DIR moves TensorBoard's files",
    "mp_parameters": "it belonged to SageMaker",
    "past_index": "no model here uses it",
    "ppo_logger": "see report_to",
    "push_to_hub_organization": "write the organization in hub_model_id",
    "ray_scope": "it belonged to hyper-parameter search",
    "ray_storage_filesystem": "ray_storage_path takes addresses such as s3://bucket/folder",
    "reserved_label_len": "see overlong",
    "save_safetensors": "weights are always safetensors",
    "split_batches": "give it in accelerator_config",
    "torchdynamo": "see torch_compile_backend",
    "tpu_metrics_debug": "see debug",
    "tpu_num_cores": "there is no TPU launcher here",
    "use_ipex": "Intel's extension is not needed any more",
    "use_legacy_prediction_loop": "there is one prediction loop",
    "use_mps_device": "the device is found by itself",
    "video_resolution": "see video_max_pixels",
    "visual_inputs": "the model says whether it takes images",
}


def apply_aliases(flat: Flat) -> Flat:
    """Return the keys with older names replaced; each change is said once a process.

    Raises:
        ConfigError: An older and a newer name of one key are both given and differ.
    """
    result = Flat({}, dict(flat.origin), {RENAMED.get(key, key) for key in flat.empty})
    moved: dict[str, Any] = {}
    for key, value in flat.values.items():
        if key in RENAMED:
            _move(flat, result, moved, key, RENAMED[key], value)
        elif key in SWITCHED:
            for new, meaning in SWITCHED[key].items():
                if str(value).lower() in TRUE_WORDS:
                    _move(flat, result, moved, key, new, meaning)
                else:
                    _say(f"{key}: off is the default of {new}, the key is not needed any more")
        elif key in DROPPED:
            _say(f"{key}: has no effect any more ({DROPPED[key]})")
        else:
            result.values[key] = _reworded(key, value)
    result.values.update(moved)
    return result


def _move(flat: Flat, result: Flat, moved: dict[str, Any], old: str, new: str, value: Any) -> None:
    if new in flat.values:
        # transformers let warmup_steps win over warmup_ratio; for the rest two answers are a mistake.
        if old == "warmup_ratio" or flat.values[new] == value:
            _say(f"{old}: left aside, {new} is given too")
            return
        raise ConfigError(f"{flat.place(old)}{old} is the older name of {new}, and both are given; keep {new}")
    if old in RENAMED_WITHIN and (number := coerce(old, value, float)) not in RENAMED_WITHIN[old]:
        raise ConfigError(flat.place(old) + RENAMED_WITHIN[old].refusal(old, number, value))
    shown = f" = {as_written(value)}" if old in SWITCHED else ""
    _say(f"{old}: now called {new}{shown}")
    moved[new] = value
    if old in flat.origin:
        result.origin[new] = flat.origin[old]


def _reworded(key: str, value: Any) -> Any:
    newer = REWORDED.get(key, {}).get(str(value).lower())
    if newer is None:
        return value
    _say(f"{key}: {value} is now called {newer}")
    return newer


def _say(text: str) -> None:
    # A worker's parent has read the same configuration and said so already.
    if "LLAMAFACTORY_ERROR_DIR" not in os.environ:
        logger.warning_once("%s", text)
