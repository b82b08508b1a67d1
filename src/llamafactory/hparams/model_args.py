# SPDX-License-Identifier: Apache-2.0
"""Which model, from where, and how it is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .field import arg, require, split_list
from .ranges import AT_LEAST_0, AT_LEAST_1, Range

# Values of liger_kernel_config; the losses are never taken.
LIGER_KERNELS = ("rope", "rms_norm", "swiglu", "geglu")
LIGER_LOSSES = ("cross_entropy", "fused_linear_cross_entropy")


@dataclass(frozen=True)
class ModelArguments:
    """The model: where it comes from, its tokens, its attention and memory."""

    # Where from.
    model_name_or_path: str | None = arg(
        None, "Local folder, hub id, .gguf file or pkg://PACKAGE/FILE.gguf (required)."
    )
    adapter_name_or_path: str | None = arg(
        None, "Adapter folders or hub ids, comma list; several are merged in order.", comma=True
    )
    adapter_folder: str | None = arg(None, "Folder that holds the adapters named above.")
    lora_modules: str | None = arg(
        None, "Adapters to serve by name beside the model: name=path, comma list.", comma=True
    )
    cache_dir: str | None = arg(None, "Folder of downloads; unset = the hub library's own.")
    hub: Literal["huggingface", "modelscope", "openmind"] | None = arg(
        None, "Hub of models and adapters; unset = what USE_MODELSCOPE_HUB and USE_OPENMIND_HUB say."
    )
    model_revision: str = arg("main", "Branch, tag or commit of the hub repository.")
    hf_hub_token: str | None = arg(None, "Token of the Hugging Face hub.")
    ms_hub_token: str | None = arg(None, "Token of the ModelScope hub.")
    om_hub_token: str | None = arg(None, "Token of the Modelers hub.")
    trust_remote_code: bool = arg(False, "Run Python code that comes with the model.")
    train_from_scratch: bool = arg(False, "Start from random weights of the model's config.")

    # Tokens.
    use_fast_tokenizer: bool = arg(True, "Use the Rust tokenizer.")
    split_special_tokens: bool = arg(False, "Tokenize the text of special tokens as ordinary text.")
    add_tokens: str | None = arg(None, "New ordinary tokens, comma list.", comma=True)
    add_special_tokens: str | None = arg(None, "New special tokens, comma list.", comma=True)
    new_special_tokens_config: str | None = arg(
        None, "YAML file of token: description for new special tokens; wins over add_special_tokens."
    )
    init_special_tokens: Literal["noise_init", "desc_init", "desc_init_w_noise"] = arg(
        "noise_init", "First value of new embeddings: mean with noise, mean of the description's tokens, or both."
    )
    resize_vocab: bool = arg(False, "Grow the embeddings to the tokenizer's size.")

    # Arithmetic and memory.
    flash_attn: Literal["auto", "disabled", "sdpa", "fa2", "fa3"] = arg("auto", "Attention; auto = best of the device.")
    rope_scaling: Literal["linear", "dynamic", "yarn", "llama3"] | None = arg(None, "How the context is stretched.")
    shift_attn: bool = arg(False, "Train with LongLoRA's shifted attention, in groups of cutoff_len / 4 tokens.")
    mixture_of_depths: Literal["convert", "load"] | None = arg(None, "Make or load a mixture-of-depths model.")
    moe_aux_loss_coef: float | None = arg(None, "Weight of the router's balance loss.", within=AT_LEAST_0)
    use_unsloth: bool = arg(False, "Known from older files; Unsloth's loader is refused.")
    use_unsloth_gc: bool = arg(False, "Keep checkpointed activations in host memory; as activation_offload: cpu.")
    activation_offload: Literal["none", "cpu", "disk"] = arg(
        "none", "Where checkpointed activations wait for the backward pass, beside the device."
    )
    activation_keep: Literal["none", "attention"] = arg(
        "none", "What checkpointing keeps of a layer beside its input: attention = what attention returns."
    )
    enable_liger_kernel: bool = arg(False, "Liger's kernels for norms, rotary positions and MLPs in training (GPU).")
    kernels: bool = arg(True, "On a CPU, what takes many passes over memory in one, compiled once by g++.")
    use_v1_kernels: bool | None = arg(False, "Kernel plug-ins for NPUs.")
    disable_gradient_checkpointing: bool = arg(False, "Never recompute activations.")
    use_reentrant_gc: bool = arg(True, "Reentrant variant of activation checkpointing.")
    upcast_layernorm: bool = arg(False, "Norm weights in float32.")
    upcast_lmhead_output: bool = arg(False, "Known from older files; the softmax is always taken in float32.")
    low_cpu_mem_usage: bool = arg(True, "Known from older files; weights are never held twice while loading.")
    threads: int | Literal["auto"] = arg(
        "auto", "Threads on a CPU; auto = as many as cores are free at the time.", within=AT_LEAST_1
    )
    print_param_status: bool = arg(False, "List each weight's dtype, device and whether it is trained.")

    # Inference.
    infer_backend: Literal["huggingface", "vllm", "sglang"] = arg("huggingface", "Engine of chat and the servers.")
    infer_dtype: Literal["auto", "float16", "bfloat16", "float32"] = arg("auto", "Number format of inference.")
    offload_folder: str = arg("offload", "Folder for weights that fit in no memory (stream_layers too).")
    use_kv_cache: bool = arg(True, "Keep keys and values while generating.")
    max_batch_size: int = arg(
        32, "Most answers the huggingface engine makes together; each holds keys and values.", within=AT_LEAST_1
    )


@dataclass(frozen=True)
class QuantizationArguments:
    """Quantization of the loaded model."""

    quantization_method: Literal[
        "bnb", "torchao", "hqq", "quanto", "eetq", "gptq", "awq", "aqlm", "mxfp4", "fp8", "compressed-tensors"
    ] = arg("bnb", "Method of quantizing at load time: bnb, torchao, hqq, quanto, eetq; the others are of checkpoints.")
    quantization_bit: int | None = arg(
        None, "Bits a weight; unset = no quantization.", within=Range(only=(1, 2, 3, 4, 5, 6, 8))
    )
    quantization_type: Literal["fp4", "nf4", "int", "fp8"] = arg(
        "nf4", "Number format: nf4 or fp4 of 4-bit bnb, int or fp8 of 8-bit torchao and quanto."
    )
    double_quantization: bool = arg(True, "Quantize the scales too (4-bit bnb).")
    stream_layers: bool = arg(
        False, "Leave the quantized weights in a file in offload_folder, and read a layer when it is computed."
    )
    quantization_device_map: Literal["auto"] | None = arg(None, "Device map of 4-bit bnb inference.")


def named_adapters(text: str | None) -> dict[str, str]:
    """Read ``lora_modules``: ``"a=x,b=y"`` gives ``{"a": "x", "b": "y"}``.

    Raises:
        ConfigError: A part is not ``name=path``, or a name stands twice.
    """
    found: dict[str, str] = {}
    for part in split_list(text):
        name, equals, path = (piece.strip() for piece in part.partition("="))
        require(bool(name and equals and path), f"lora_modules: expected name=path, got {part!r}")
        require(name not in found, f"lora_modules: the name {name!r} stands twice")
        found[name] = path
    return found
