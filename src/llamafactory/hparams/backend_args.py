# SPDX-License-Identifier: Apache-2.0
"""Ray, profiler, FP8 and Megatron keys."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .field import arg
from .ranges import AT_LEAST_0, AT_LEAST_1, Range


@dataclass(frozen=True)
class RayArguments:
    """Ray workers."""

    use_ray: bool | None = arg(None, "Train in Ray's workers; unset = as the variable USE_RAY says.")
    ray_num_workers: int = arg(1, "Number of Ray workers that train.", within=AT_LEAST_1)
    resources_per_worker: dict | str | None = arg(
        None, "What each Ray worker gets (mapping or JSON); unset = {GPU: 1}, or {CPU: 1} where there is none."
    )
    placement_strategy: Literal["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"] = arg(
        "PACK", "Ray workers on few machines or on many."
    )
    ray_run_name: str | None = arg(None, "Name of the run in Ray's own notes; unset = Ray's choice.")
    ray_storage_path: str | None = arg(
        None, "Folder or address of Ray's own notes, shared by its machines; unset = <output_dir>/.ray."
    )
    ray_max_failures: int = arg(
        3, "How often Ray's workers start again from the newest checkpoint after a failure.", within=AT_LEAST_0
    )
    ray_init_kwargs: dict | str | None = arg(None, "Settings of ray.init (mapping or JSON).")
    master_addr: str | None = arg(None, "Host where the processes meet.")
    master_port: str | None = arg(None, "Port where the processes meet.")


@dataclass(frozen=True)
class ProfilerArguments:
    """Profiling."""

    enable_torch_profiler: bool = arg(False, "Record traces with torch's profiler.")
    profiler_output_dir: str | None = arg(None, "Folder of traces; unset = <output_dir>/profiler.")
    profiler_wait_steps: int = arg(1, "Steps of a cycle that are not looked at.", within=AT_LEAST_0)
    profiler_warmup_steps: int = arg(1, "Steps of a cycle that warm the profiler up.", within=AT_LEAST_0)
    profiler_active_steps: int = arg(1, "Steps of a cycle that are recorded.", within=AT_LEAST_1)
    profiler_repeat: int = arg(1, "Number of cycles; 0 = without end.", within=AT_LEAST_0)
    profiler_record_shapes: bool = arg(True, "Keep tensor shapes.")
    profiler_profile_memory: bool = arg(True, "Keep allocations.")
    profiler_with_stack: bool = arg(True, "Keep Python stacks.")
    profile_modules: str | None = arg(
        None, "Modules timed in forward and backward: name patterns, comma list.", comma=True
    )


@dataclass(frozen=True)
class Fp8Arguments:
    """FP8 arithmetic."""

    fp8: bool = arg(False, "FP8 mixed precision.")
    fp8_backend: Literal["auto", "torchao", "te", "msamp"] = arg("auto", "Library: auto, torchao, te or msamp.")
    fp8_enable_fsdp_float8_all_gather: bool = arg(False, "Gather FSDP2 weights in float8.")


@dataclass(frozen=True)
class QatArguments:
    """Training for an export in few bits."""

    qat: Literal["none", "int4", "int8"] = arg(
        "none", "Compute with weights rounded as export_quantization_method rtn will round them."
    )
    qat_group_size: int = arg(128, "Weights that share a scale: 32, 64 or 128.", within=Range(only=(32, 64, 128)))


@dataclass(frozen=True)
class MegatronBridgeArguments:
    """Megatron Bridge."""

    tensor_model_parallel_size: int = arg(1, "Devices a layer is split over.", within=AT_LEAST_1)
    pipeline_model_parallel_size: int = arg(1, "Groups of layers in a pipeline.", within=AT_LEAST_1)
    expert_model_parallel_size: int = arg(1, "Devices the experts are split over.", within=AT_LEAST_1)
    virtual_pipeline_model_parallel_size: int | None = arg(
        None, "Interleaved groups of layers on a device.", within=AT_LEAST_1
    )
    sequence_parallel: bool = arg(
        False, "Split norms and dropout along the sequence; needs tensor_model_parallel_size above 1."
    )
    recompute_granularity: str | None = arg(None, "What is recomputed: full or selective.")
    recompute_method: Literal["uniform", "block"] | None = arg(None, "Layer selection for recompute.")
    recompute_num_layers: int | None = arg(None, "Layers per recompute unit.", within=AT_LEAST_1)
    account_for_embedding_in_pipeline_split: bool | None = arg(None, "Count embedding as a layer.")
    account_for_loss_in_pipeline_split: bool | None = arg(None, "Count loss as a layer.")
    bias_activation_fusion: bool | None = arg(None, "Fused bias and activation.")
    apply_rope_fusion: bool | None = arg(None, "Fused RoPE.")
    masked_softmax_fusion: bool | None = arg(None, "Fused softmax.")
    cross_entropy_loss_fusion: bool | None = arg(None, "Fused cross-entropy.")
    moe_grouped_gemm: bool | None = arg(None, "Grouped matrix products of the experts.")
    moe_token_dispatcher_type: Literal["allgather", "alltoall", "flex"] | None = arg(
        None, "How tokens reach the experts."
    )
    calculate_per_token_loss: bool | None = arg(
        None, "Divide the loss by tokens; always so with context_parallel_size above 1."
    )
    use_distributed_optimizer: bool = arg(True, "Split optimizer state over devices.")
    overlap_param_gather: bool = arg(True, "Overlap all-gather.")
    overlap_grad_reduce: bool = arg(True, "Overlap grad reduce.")
    use_packed_sequences: bool = arg(False, "Packed sequences in stage sft.")
    mixed_precision: str = arg("bf16_mixed", "Name of the precision recipe.")
    megatron_pretrained_checkpoint: str | None = arg(None, "Start from a Megatron checkpoint.")
    export_hf_on_finish: bool = arg(False, "Write HF weights at the end.")
    extra_config: str | None = arg(None, "Further settings: JSON or a file.")
