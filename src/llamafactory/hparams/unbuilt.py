# SPDX-License-Identifier: Apache-2.0
"""Keys that are known but whose part of the house is not built yet: they are refused in one clear line."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any

from ..extras.environment import is_env_enabled
from ..extras.errors import UsageError
from ..extras.logging import get_logger

if TYPE_CHECKING:
    from .args import InferArgs

logger = get_logger(__name__)

ANY = object()

# (key, value that asks for it; ANY = every value but the default, what it asks for). Asked of every command.
ALWAYS: tuple[tuple[str, Any, str], ...] = (
    ("finetuning_type", "oft", "OFT"),
    ("quantization_bit", ANY, "quantization"),
    ("ref_model_quantization_bit", ANY, "quantization"),
    ("reward_model_quantization_bit", ANY, "quantization"),
    ("mixture_of_depths", ANY, "mixture of depths"),
    ("use_unsloth", ANY, "loading through Unsloth"),
    ("use_kt", ANY, "KTransformers"),
    ("shift_attn", ANY, "shifted attention"),
)

# Asked of training only: a model that was trained this way elsewhere can still be served.
TRAINING: tuple[tuple[str, Any, str], ...] = (
    ("use_dft_loss", ANY, "the DFT loss"),
    ("use_asft_loss", ANY, "the ASFT loss"),
    ("use_eaft_loss", ANY, "the EAFT loss"),
    ("use_llama_pro", ANY, "LLaMA-Pro"),
    ("use_galore", ANY, "GaLore"),
    ("use_apollo", ANY, "APOLLO"),
    ("use_badam", ANY, "BAdam"),
    ("use_adam_mini", ANY, "Adam-mini"),
    ("use_muon", ANY, "Muon"),
    ("use_mca", ANY, "Megatron-core training"),
    ("use_megatron_bridge", ANY, "Megatron Bridge training"),
    ("use_hyper_parallel", ANY, "HyperParallel training"),
    ("use_unsloth_gc", ANY, "activation offloading"),
    ("freeze_language_model", ANY, "training parts of multimodal models"),
    ("fp8", ANY, "FP8 training"),
    ("enable_torch_profiler", ANY, "the profiler"),
    ("profile_modules", ANY, "the module profiler"),
    ("deepspeed", ANY, "DeepSpeed"),
    ("fsdp", ANY, "fully sharded data parallelism"),
    ("fsdp_config", ANY, "fully sharded data parallelism"),
)

# Switches of speed alone: a run without them is right, only slower, so they are said and not refused.
SPEED_ONLY: dict[str, str] = {
    "enable_liger_kernel": "Liger kernels",
    "use_liger_kernel": "Liger kernels",
    "use_v1_kernels": "kernel plug-ins",
}

# Environment switch -> what it asks for.
ENVIRONMENT: dict[str, str] = {
    "USE_RAY": "training with Ray",
    "USE_KT": "KTransformers",
    "USE_MCA": "Megatron-core training",
    "USE_MEGATRON_BRIDGE": "Megatron Bridge training",
    "USE_V1": "the v1 engine",
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_FSDP": "fully sharded data parallelism",
}

# Keys of parts that have no file yet; they are known, so that a configuration that only carries them is read.
PLUGIN_KEYS: tuple[str, ...] = ("module_dropout", "oft_rank", "oft_block_size", "oft_target", "kt_config")


def refuse_unbuilt(args: InferArgs, *, training: bool) -> None:
    """Refuse the first setting that asks for a part which is not built.

    Raises:
        UsageError: ``key: value asks for PART, which is not built yet in this version``.
    """
    for name, part in ENVIRONMENT.items():
        if training and is_env_enabled(name):
            raise UsageError(f"{name}: asks for {part}, which is not built yet in this version")
    values = _values(args)
    for key, asking, part in ALWAYS + (TRAINING if training else ()):
        value, default = values[key]
        if value == asking or (asking is ANY and value and value != default):
            raise UsageError(f"{key}: {value} asks for {part}, which is not built yet in this version")
    for key, part in SPEED_ONLY.items():
        if key in values and values[key][0]:
            logger.warning_once(f"{key}: {part} are not built yet in this version; going on without them")


def _values(args: InferArgs) -> dict[str, tuple[Any, Any]]:
    """Return value and default of every key of every section."""
    sections = [section for section in vars(args).values() if is_dataclass(section)]
    return {item.name: (getattr(section, item.name), item.default) for section in sections for item in fields(section)}
