# SPDX-License-Identifier: Apache-2.0
"""Export, serving engines and media limits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from .field import arg


@dataclass(frozen=True)
class ExportArguments:
    """TODO"""

    export_dir: str | None = arg(None, "Output folder.")
    export_size: int = arg(5, "Shard size, GB.")
    export_device: Literal["cpu", "auto"] = arg("cpu", "Cpu or auto merge device.")
    export_quantization_bit: int | None = arg(None, "GPTQ bits.")
    export_quantization_dataset: str | None = arg(None, "Calibration set (required with bits).")
    export_quantization_nsamples: int = arg(128, "Calibration rows.")
    export_quantization_maxlen: int = arg(1024, "Calibration length.")
    export_legacy_format: bool = arg(False, "Write .bin.")
    export_hub_model_id: str | None = arg(None, "Push to this repo.")


@dataclass(frozen=True)
class ProcessorArguments:
    """TODO"""

    image_max_pixels: int = arg(768 * 768, "Downscale above.")
    image_min_pixels: int = arg(32 * 32, "Upscale below.")
    image_do_pan_and_scan: bool = arg(False, "Gemma 3 crops.")
    crop_to_patches: bool = arg(False, "InternVL tiling.")
    video_max_pixels: int = arg(256 * 256, "Per-frame cap.")
    video_min_pixels: int = arg(16 * 16, "Per-frame floor.")
    video_fps: float = arg(2.0, "Sampling rate.")
    video_maxlen: int = arg(128, "Frame cap.")
    use_audio_in_video: bool = arg(False, "Use the audio track of videos (Omni).")
    audio_sampling_rate: int = arg(16000, "Resample rate.")


@dataclass(frozen=True)
class VllmArguments:
    """TODO"""

    vllm_maxlen: int = arg(4096, "Context length.")
    vllm_gpu_util: float = arg(0.7, "Memory fraction.")
    vllm_enforce_eager: bool = arg(False, "No CUDA graphs.")
    vllm_max_lora_rank: int = arg(32, "Largest adapter rank.")
    vllm_config: dict | str | None = arg(None, "Extra engine kwargs (JSON).")


@dataclass(frozen=True)
class SGLangArguments:
    """TODO"""

    sglang_maxlen: int = arg(4096, "Context length.")
    sglang_mem_fraction: float = arg(0.7, "Memory fraction.")
    sglang_tp_size: int = arg(-1, "TP size, -1 = all devices.")
    sglang_config: dict | str | None = arg(None, "Extra server flags (JSON).")
    sglang_lora_backend: Literal["triton", "flashinfer"] = arg("triton", "LoRA GEMM backend.")


@dataclass(frozen=True)
class KTransformersArguments:
    """TODO"""

    use_kt: bool = arg(False, "KTransformers CPU/GPU MoE backend.")
    kt_cpu_activation: Literal["retain", "recompute"] | None = arg(None, "Keep or recompute CPU expert activations (follows GPU checkpointing when unset).")
    kt_weight_path: str | None = arg(None, "INT8 expert files (.kt).")
    kt_non_expert_weight_path: str | None = arg(None, "BF16 cache of non-expert weights.")
    kt_expert_checkpoint_path: str | None = arg(None, "Safetensors experts converted at load.")
    kt_use_lora_experts: bool | None = arg(None, "Extra GPU LoRA experts.")
    kt_lora_expert_num: int | None = arg(None, "Their count.")
    kt_lora_expert_intermediate_size: int | None = arg(None, "Their width.")
