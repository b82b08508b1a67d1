# SPDX-License-Identifier: Apache-2.0
"""Ray, profiler, FP8 and Megatron keys."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from .field import arg


@dataclass(frozen=True)
class RayArguments:
    """TODO"""

    ray_num_workers: int = arg(1, "Ray training worker count.")
    ray_init_kwargs: dict | str | None = arg(None, "Kwargs for ray.init (dict or JSON string).")
    master_addr: str | None = arg(None, "Rendezvous host of the process group.")
    master_port: str | None = arg(None, "Rendezvous port.")


@dataclass(frozen=True)
class ProfilerArguments:
    """TODO"""

    enable_torch_profiler: bool = arg(False, "Record torch profiler traces.")
    profiler_output_dir: str | None = arg(None, "Trace folder (default <output_dir>/profiler).")
    profiler_wait_steps: int = arg(1, "Idle steps per cycle.")
    profiler_warmup_steps: int = arg(1, "Warm-up steps per cycle.")
    profiler_active_steps: int = arg(1, "Recorded steps per cycle.")
    profiler_repeat: int = arg(1, "Cycle count, 0 = endless.")
    profiler_record_shapes: bool = arg(True, "Keep tensor shapes.")
    profiler_profile_memory: bool = arg(True, "Keep allocations.")
    profiler_with_stack: bool = arg(True, "Keep Python stacks.")
    profile_modules: str | None = arg(None, "Fnmatch patterns of modules timed fwd/bwd with CUDA events.")


@dataclass(frozen=True)
class Fp8Arguments:
    """TODO"""

    fp8: bool = arg(False, "FP8 mixed precision through Accelerate.")
    fp8_backend: str = arg("auto", "Auto / torchao / te / msamp.")
    fp8_enable_fsdp_float8_all_gather: bool = arg(False, "FSDP2 all-gather in float8.")


@dataclass(frozen=True)
class MegatronBridgeArguments:
    """TODO"""

    tensor_model_parallel_size: int = arg(1, "TP.")
    pipeline_model_parallel_size: int = arg(1, "PP.")
    expert_model_parallel_size: int = arg(1, "EP.")
    context_parallel_size: int = arg(1, "CP.")
    virtual_pipeline_model_parallel_size: int | None = arg(None, "Interleaved PP stages.")
    sequence_parallel: bool = arg(False, "SP (needs TP>1).")
    recompute_granularity: str | None = arg(None, "Full / selective.")
    recompute_method: Literal["uniform", "block"] | None = arg(None, "Layer selection for recompute.")
    recompute_num_layers: int | None = arg(None, "Layers per recompute unit.")
    account_for_embedding_in_pipeline_split: bool | None = arg(None, "Count embedding as a layer.")
    account_for_loss_in_pipeline_split: bool | None = arg(None, "Count loss as a layer.")
    bias_activation_fusion: bool | None = arg(None, "Fused bias+act.")
    apply_rope_fusion: bool | None = arg(None, "Fused RoPE.")
    masked_softmax_fusion: bool | None = arg(None, "Fused softmax.")
    cross_entropy_loss_fusion: bool | None = arg(None, "Fused CE.")
    moe_grouped_gemm: bool | None = arg(None, "Grouped expert GEMM.")
    moe_token_dispatcher_type: Literal["allgather", "alltoall", "flex"] | None = arg(None, "MoE dispatch method.")
    calculate_per_token_loss: bool | None = arg(None, "Token-normalised loss (forced with CP>1).")
    use_distributed_optimizer: bool = arg(True, "Shard optimiser states.")
    overlap_param_gather: bool = arg(True, "Overlap all-gather.")
    overlap_grad_reduce: bool = arg(True, "Overlap grad reduce.")
    use_packed_sequences: bool = arg(False, "Packed SFT.")
    mixed_precision: str = arg("bf16_mixed", "Precision recipe name.")
    megatron_pretrained_checkpoint: str | None = arg(None, "Start from a Megatron checkpoint.")
    export_hf_on_finish: bool = arg(False, "Write HF weights at the end.")
    extra_config: str | None = arg(None, "JSON / file with dot-path overrides.")
