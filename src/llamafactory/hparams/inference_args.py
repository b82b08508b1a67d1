# SPDX-License-Identifier: Apache-2.0
"""Export, serving engines and media limits."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

from .field import arg, require
from .ranges import AT_LEAST_0, AT_LEAST_1, BITS, PART, POSITIVE, Range


@dataclass(frozen=True)
class ExportArguments:
    """What export writes."""

    export_dir: str | None = arg(None, "Folder to write the merged model to.")
    export_size: float = arg(5, "Largest file of weights, in GB.", within=POSITIVE)
    export_device: Literal["cpu", "auto"] = arg("cpu", "Merge on the CPU or on the best device.")
    export_gguf: str | None = arg(
        None,
        "Also write GGUF files of these types (f16, q8_0, ... in a comma list), for llama.cpp and Ollama.",
        comma=True,
    )
    export_dequantized: bool = arg(
        False, "Merge into the weights as quantization_bit rounds them, not into the whole ones of the same model."
    )
    export_quantization_bit: int | None = arg(None, "Quantize the exported weights to 4 or 8 bits.", within=BITS)
    export_quantization_method: Literal["gptq", "awq", "rtn", "fp8"] = arg(
        "gptq", "How export quantizes; rtn rounds to nearest, fp8 writes 8-bit floats."
    )
    export_quantization_group_size: int = arg(
        128, "Weights that share a scale: 32, 64 or 128.", within=Range(only=(32, 64, 128))
    )
    export_quantization_symmetric: bool | None = arg(
        None, "Integers without a zero of their own for each group; unset = only with 8 bits."
    )
    export_quantization_search: bool = arg(
        True, "Try narrower ranges of integers too, and take the one of the least error; false = the range of qat."
    )
    export_quantization_dataset: str | None = arg(
        None, "Calibration file or set (required with export_quantization_bit)."
    )
    export_quantization_nsamples: int = arg(128, "Rows used for calibration.", within=AT_LEAST_1)
    export_quantization_maxlen: int = arg(1024, "Tokens of one calibration row.", within=Range(least=2))
    export_quantization_own_text: float = arg(
        0.5, "Share of the calibration rows that the model writes itself.", within=Range(least=0, below=1)
    )
    export_quantization_epochs: int | None = arg(
        None,
        "Passes over the calibration rows in which all scales learn together; unset = 2 with 4 bits of gptq or awq.",
        within=Range(least=0),
    )
    export_legacy_format: bool = arg(False, "Write .bin files; newer libraries write safetensors only.")
    export_hub_model_id: str | None = arg(None, "Push the result to this hub repository.")


@dataclass(frozen=True)
class BatchInferenceArguments:
    """Answers for a whole data set (the command infer), and negatives for it (the command mine)."""

    save_name: str = arg("generated_predictions.jsonl", "File of the answers; a stopped run goes on in it.")
    matrix_save_name: str | None = arg(None, "Also write the mean BLEU and ROUGE of the answers to this JSON file.")
    infer_concurrency: int = arg(
        64, "Rows asked for at once; the engine shares forward passes among them.", within=AT_LEAST_1
    )
    mine_file: str = arg("hard_negatives.jsonl", "File of the rows with their negatives (command mine).")
    mine_negatives: int = arg(4, "Negatives that are added to each row.", within=AT_LEAST_1)
    mine_skip: int = arg(0, "Nearest documents that are left out before.", within=AT_LEAST_0)
    mine_share: float = arg(
        0.95,
        "A negative is at most this share as near to the query as its farthest positive; nearer ones are likely right.",
        within=PART,
    )


@dataclass(frozen=True)
class ProcessorArguments:
    """Limits of images, videos and sound."""

    image_max_pixels: int = arg(768 * 768, "Larger images are scaled down to this many pixels.", within=AT_LEAST_1)
    image_min_pixels: int = arg(32 * 32, "Smaller images are scaled up to this many pixels.", within=AT_LEAST_1)
    image_do_pan_and_scan: bool = arg(False, "Also cut out details of large images (Gemma 3).")
    crop_to_patches: bool = arg(False, "Cut images into tiles (InternVL).")
    video_max_pixels: int = arg(256 * 256, "Largest video frame, in pixels.", within=AT_LEAST_1)
    video_min_pixels: int = arg(16 * 16, "Smallest video frame, in pixels.", within=AT_LEAST_1)
    video_fps: float = arg(2.0, "Frames taken per second of video.", within=POSITIVE)
    video_maxlen: int = arg(128, "Most frames of one video.", within=AT_LEAST_1)
    use_audio_in_video: bool = arg(False, "Use the sound of videos (Omni models).")
    audio_sampling_rate: int = arg(
        16000, "Samples per second that sound is converted to.", within=Range(least=1, most=768000)
    )


@dataclass(frozen=True)
class VllmArguments:
    """The vLLM engine."""

    vllm_maxlen: int = arg(4096, "Most tokens of one sequence.", within=AT_LEAST_1)
    vllm_gpu_util: float = arg(0.7, "Share of device memory to use.", within=PART)
    vllm_enforce_eager: bool = arg(False, "Do without CUDA graphs.")
    vllm_max_lora_rank: int = arg(32, "Largest rank of an adapter.", within=AT_LEAST_1)
    vllm_config: dict | str | None = arg(None, "Further engine settings (mapping or JSON).")


@dataclass(frozen=True)
class SGLangArguments:
    """The SGLang engine."""

    sglang_maxlen: int = arg(4096, "Most tokens of one sequence.", within=AT_LEAST_1)
    sglang_mem_fraction: float = arg(0.7, "Share of device memory to use.", within=PART)
    sglang_tp_size: int = arg(-1, "Devices a model is split over; -1 = all.", within=Range(least=1, also=(-1,)))
    sglang_config: dict | str | None = arg(None, "Further server settings (mapping or JSON).")
    sglang_lora_backend: Literal["triton", "flashinfer"] = arg("triton", "Kernels of the adapters.")


@dataclass(frozen=True)
class KTransformersArguments:
    """Mixture-of-experts models with experts on the CPU (KTransformers)."""

    use_kt: bool = arg(False, "Compute experts on the CPU; also by USE_KT=1.")
    kt_cpu_activation: Literal["retain", "recompute"] | None = arg(
        None, "Keep or recompute the experts' activations; unset = as on the GPU."
    )
    kt_weight_path: str | None = arg(None, "Expert weights in INT8 (.kt).")
    kt_non_expert_weight_path: str | None = arg(None, "Cached bfloat16 weights of everything else.")
    kt_expert_checkpoint_path: str | None = arg(None, "Expert weights as safetensors, converted when loaded.")
    kt_use_lora_experts: bool | None = arg(None, "Add LoRA experts on the GPU.")
    kt_lora_expert_num: int | None = arg(None, "How many LoRA experts.", within=AT_LEAST_1)
    kt_lora_expert_intermediate_size: int | None = arg(None, "Width of the LoRA experts.", within=AT_LEAST_1)


def engine_settings(key: str, value: dict | str | None) -> dict[str, Any]:
    """Return the further settings of an engine, given as a mapping or as its JSON.

    Raises:
        ConfigError: The text is not a JSON object.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:  # a number of more digits than Python reads is one too
            require(False, f"{key}: not JSON ({error})")
    require(value is None or isinstance(value, dict), f"{key}: expected a mapping, got {value!r}")
    return dict(value) if isinstance(value, dict) else {}
