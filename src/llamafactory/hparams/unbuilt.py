# SPDX-License-Identifier: Apache-2.0
"""Keys that are known but whose part of the house is not built yet: they are refused in one clear line."""

from __future__ import annotations

import os
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import TYPE_CHECKING, Any

from ..extras.environment import is_env_enabled
from ..extras.errors import UsageError, short
from ..extras.logging import get_logger

if TYPE_CHECKING:
    from .args import InferArgs

logger = get_logger(__name__)

ANY = object()
NOTHING = ("", "0", "no", "false", "off")  # of a variable

# (key, value that asks for it; ANY = every value but the default, what it asks for). Asked of every command.
ALWAYS: tuple[tuple[str, Any, str], ...] = (
    ("mixture_of_depths", ANY, "mixture of depths"),
    ("kt_config", ANY, "KTransformers"),
    ("low_cpu_mem_usage", ANY, "weights that are held twice while loading"),
    ("download_mode", ANY, "downloading benchmarks anew"),
)

# Asked of training only: a model that was trained this way elsewhere can still be served.
TRAINING: tuple[tuple[str, Any, str], ...] = (
    ("fp8_backend", "te", "FP8 by Transformer Engine"),
    ("fp8_backend", "msamp", "FP8 by MS-AMP"),
    ("fp8_enable_fsdp_float8_all_gather", ANY, "float8 weights of fully sharded data parallelism"),
    ("use_mca", ANY, "Megatron-core training"),
    ("use_megatron_bridge", ANY, "Megatron Bridge training"),
    ("use_hyper_parallel", ANY, "HyperParallel training"),
    ("hyper_parallel_args", ANY, "HyperParallel training"),
    ("hyper_parallel_cp_size", ANY, "HyperParallel training"),
    ("parallelism_config", ANY, "parallel dimensions of a model"),
    ("accelerator_config", ANY, "Accelerate's own handling of batches"),
    ("average_tokens_across_devices", ANY, "a loss that each device weighs by itself"),
    ("ignore_pad_token_for_loss", ANY, "a loss on padding"),
    ("label_names", ANY, "labels from other columns"),
    ("length_column_name", ANY, "lengths from a column"),
    ("dataloader_in_order", ANY, "batches in the order they get ready"),
    ("bf16_full_eval", ANY, "another number format in evaluation"),
    ("fp16_full_eval", ANY, "another number format in evaluation"),
    ("prediction_loss_only", ANY, "evaluation without metrics"),
    ("eval_do_concat_batches", ANY, "predictions that are kept batch by batch"),
    ("eval_use_gather_object", ANY, "predictions that are gathered as objects"),
    ("sortish_sampler", ANY, "evaluation rows sorted by length"),
    ("generation_config", ANY, "generation settings from a file"),
)

# Sections that belong to one part each: every value but the default asks for it. Asked of every command that has them.
SECTIONS: dict[str, str] = {
    "kt": "KTransformers",
    "megatron": "Megatron Bridge training",
}

# Parts whose packages cannot stand beside this project's, seen in what they require (docs/support.md) -> why.
_BELOW_5 = "whose package megatron-bridge wants transformers below 5, and this program 5 or later"
OF_OTHER_VERSIONS: dict[str, str] = {
    "KTransformers": "which trains with a transformers, an accelerate and a llamafactory of its own making",
    "Megatron-core training": _BELOW_5,
    "Megatron Bridge training": _BELOW_5,
}

# Switches of speed alone: a run without them is right, only slower, so they are said and not refused.
SPEED_ONLY: dict[str, str] = {
    "use_v1_kernels": "kernel plug-ins",
}

# What these ask for is always done -> how. Values other than the default are said, so that nobody waits for a change.
DONE_ANYWAY: dict[str, str] = {
    "batch_eval_metrics": "evaluation adds its metrics up batch by batch",
    "enable_jit_checkpoint": "a run that is asked to end saves a checkpoint",
    "eval_accumulation_steps": "evaluation keeps sums, and no predictions that could fill the memory",
    "include_for_metrics": "metrics have the whole batch at hand",
    "local_rank": "the variable LOCAL_RANK says it",
    "logging_nan_inf_filter": "no loss is left out of the mean; on_nonfinite says what happens at NaN",
    "remove_unused_columns": "the collator takes the columns it needs",
    "master_addr": "Ray says where its workers meet",
    "master_port": "Ray says where its workers meet",
    "restore_callback_states_from_checkpoint": "a resumed run restores its callbacks",
    "upcast_lmhead_output": "the softmax is taken in float32",
}

# Environment switch -> what it asks for.
ENVIRONMENT: dict[str, str] = {
    "ACCELERATE_USE_PARALLELISM_CONFIG": "parallel dimensions of a model",
    "USE_KT": "KTransformers",
    "USE_MCA": "Megatron-core training",
    "USE_MEGATRON_BRIDGE": "Megatron Bridge training",
}

# Keys of parts that have no file yet; they are known, so that a configuration that only carries them is read.
PLUGIN_KEYS: tuple[str, ...] = ("kt_config",)


# Variables that users of LLaMA-Factory set, which change nothing here -> why. Each is said once.
NO_EFFECT: dict[str, str] = {
    "DISABLE_VERSION_CHECK": "versions are held by the installation alone",
    "FORCE_CHECK_IMPORTS": "a missing package is said by the key that needs it",
    "NPU_JIT_COMPILE": "the NPU's kernels are compiled as torch_npu does by itself",
    "DOWNSAMPLE_MODE": "MiniCPM-V's processor is used as its own files say",
    "DEMO_MODEL": "the page of webchat serves what the configuration names",
    "DEMO_TEMPLATE": "the page of webchat serves what the configuration names",
    "DEMO_BACKEND": "the page of webchat serves what the configuration names",
    "ACCELERATE_MIXED_PRECISION": "bf16, fp16 and pure_bf16 say it",
    "FP8_BACKEND": "fp8_backend says it",
    "FP8_ENABLE_FSDP_FLOAT8_ALL_GATHER": "float8 weights of sharded training are not built yet",
    "RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES": "Ray Train numbers the devices of its workers",
    "RAY_EXPERIMENTAL_NOSET_ASCEND_RT_VISIBLE_DEVICES": "Ray Train numbers the devices of its workers",
    "LLAMAFACTORY_MUON_DIAG": "it belonged to the v1 engine",
    "FORCE_V1_CPU": "it belonged to the v1 engine; see use_cpu",
    "HF_REVISION": "it belonged to the v1 engine; see model_revision",
    "WANDB_DISABLED": "report_to: none says it",
}


def why_not(part: str) -> str:
    """The end of the line that refuses a part."""
    return OF_OTHER_VERSIONS.get(part, "which is not built yet in this version")


def refuse_environment(*, training: bool) -> None:
    """Refuse the first variable that asks for a part which is not built; say which change nothing.

    Raises:
        UsageError: ``VARIABLE: asks for PART, which is not built yet in this version``, or why it cannot be.
    """
    for name, part in ENVIRONMENT.items():
        if training and is_env_enabled(name):
            raise UsageError(f"{name}: asks for {part}, {why_not(part)}")
    for name, why in NO_EFFECT.items():
        if os.environ.get(name, "").strip().lower() not in NOTHING:
            logger.warning_once(f"{name}: the variable has no effect; {why}")


def refuse_unbuilt(args: InferArgs, *, training: bool) -> None:
    """Refuse the first setting that asks for a part which is not built.

    Raises:
        UsageError: ``key: value asks for PART, which is not built yet in this version``, or why it cannot be.
    """
    values = _values(args)
    for key, asking, part in ALWAYS + (TRAINING if training else ()) + _rows_of_sections(args):
        value, default = values[key]
        if value == asking or (asking is ANY and _differs(value, default)):
            shown = value if isinstance(value, str) else short(value)
            raise UsageError(f"{key}: {shown} asks for {part}, {why_not(part)}")
    _say_what_is_done_otherwise(values)


def _say_what_is_done_otherwise(values: dict[str, tuple[Any, Any]]) -> None:
    for key, part in SPEED_ONLY.items():
        if key in values and values[key][0]:
            logger.warning_once(f"{key}: {part} are not built yet in this version; going on without them")
    for key, how in DONE_ANYWAY.items():
        if key in values and _differs(*values[key]):
            logger.info_once(f"{key}: makes no difference; {how}")


def _rows_of_sections(args: InferArgs) -> tuple[tuple[str, Any, str], ...]:
    sections = [(getattr(args, name), part) for name, part in SECTIONS.items() if hasattr(args, name)]
    return tuple((item.name, ANY, part) for section, part in sections for item in fields(section))


def _differs(value: Any, default: Any) -> bool:
    """Whether a value asks for something: an empty text or mapping, and ``false`` for nothing, are nothing too."""
    return value != default and not (default is None and value in ("", False, {}, []))


def _values(args: InferArgs) -> dict[str, tuple[Any, Any]]:
    """Return value and default of every key of every section, and of the keys that have no section yet."""
    sections = [section for section in vars(args).values() if is_dataclass(section)]
    found = {key: (args.keys.get(key), None) for key in PLUGIN_KEYS}
    return found | {
        item.name: (getattr(section, item.name), _default(item)) for section in sections for item in fields(section)
    }


def _default(item: Field[Any]) -> Any:
    return item.default if item.default_factory is MISSING else item.default_factory()
