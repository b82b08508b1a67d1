# SPDX-License-Identifier: Apache-2.0
"""Which model, from where, and how it is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from .field import arg


@dataclass(frozen=True)
class ModelArguments:
    """TODO"""

    model_name_or_path: str | None = arg(None, "Model path or hub id (required).")
    adapter_name_or_path: str | None = arg(None, "Adapter path(s), comma list; several are merged in order.")
    adapter_folder: str | None = arg(None, "Subfolder with adapter weights.")
    cache_dir: str | None = arg(None, "Download cache.")
    use_fast_tokenizer: bool = arg(True, "Rust tokenizer.")
    resize_vocab: bool = arg(False, "Grow embeddings to tokenizer size.")
    split_special_tokens: bool = arg(False, "Tokenise special tokens as text.")
    add_tokens: str | None = arg(None, "Extra ordinary tokens, comma list.")
    add_special_tokens: str | None = arg(None, "Extra special tokens, comma list.")
    new_special_tokens_config: str | None = arg(None, "YAML {token: description} for semantic embedding init (wins over add_special_tokens).")
    init_special_tokens: Literal["noise_init", "desc_init", "desc_init_w_noise"] = arg("noise_init", "Init of new embeddings: mean+noise / mean of description tokens / both.")
    model_revision: str = arg("main", "Hub revision.")
    low_cpu_mem_usage: bool = arg(True, "Low-RAM loading.")
    rope_scaling: RopeScaling | None = arg(None, "Context extension method.")
    flash_attn: Literal["auto", "disabled", "sdpa", "fa2", "fa3"] = arg("auto", "Attention implementation.")
    shift_attn: bool = arg(False, "LongLoRA S2 attention.")
    mixture_of_depths: Literal["convert", "load"] | None = arg(None, "Convert to or load a MoD model.")
    use_unsloth: bool = arg(False, "Unsloth model loader.")
    use_unsloth_gc: bool = arg(False, "CPU-offloaded activation checkpointing.")
    enable_liger_kernel: bool = arg(False, "Liger kernels.")
    moe_aux_loss_coef: float | None = arg(None, "Router balance loss weight.")
    disable_gradient_checkpointing: bool = arg(False, "Turn recompute off.")
    use_reentrant_gc: bool = arg(True, "Reentrant checkpoint variant.")
    upcast_layernorm: bool = arg(False, "Norm weights in fp32.")
    upcast_lmhead_output: bool = arg(False, "Logits in fp32.")
    train_from_scratch: bool = arg(False, "Random weights from config.")
    infer_backend: Literal["huggingface", "vllm", "sglang"] = arg("huggingface", "Chat engine.")
    offload_folder: str = arg("offload", "Disk offload folder for inference.")
    use_kv_cache: bool = arg(True, "KV cache in generation.")
    use_v1_kernels: bool | None = arg(False, "Enable v1 kernel plugins (NPU kernels).")
    infer_dtype: Literal["auto", "float16", "bfloat16", "float32"] = arg("auto", "Inference dtype.")
    hf_hub_token: str | None = arg(None, "HF token.")
    ms_hub_token: str | None = arg(None, "ModelScope token.")
    om_hub_token: str | None = arg(None, "Modelers token.")
    print_param_status: bool = arg(False, "Dump dtype/device/trainable per tensor.")
    trust_remote_code: bool = arg(False, "Run hub Python code.")


@dataclass(frozen=True)
class QuantizationArguments:
    """TODO"""

    quantization_method: Literal["bnb", "gptq", "awq", "aqlm", "quanto", "eetq", "hqq", "mxfp4", "fp8"] = arg("bnb", "On-the-fly method (enum).")
    quantization_bit: int | None = arg(None, "Bit width.")
    quantization_type: Literal["fp4", "nf4"] = arg("nf4", "Bnb 4-bit number format.")
    double_quantization: bool = arg(True, "Quantise the scales too (bnb 4-bit).")
    quantization_device_map: Literal["auto"] | None = arg(None, "Device map for bnb 4-bit inference.")
