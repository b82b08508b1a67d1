# SPDX-License-Identifier: Apache-2.0
"""Rules of export and the serving engines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..field import require
from ..inference_args import ExportArguments, engine_settings

if TYPE_CHECKING:
    from ..args import InferArgs


def check(args: InferArgs) -> None:
    """Rules of inference commands."""
    _check_quantization(args.export, "export_quantization_method" in args.keys)
    engine_settings("vllm_config", args.vllm.vllm_config)
    engine_settings("sglang_config", args.sglang.sglang_config)
    require(
        0 < args.vllm.vllm_gpu_util <= 1,
        f"vllm_gpu_util: expected above 0 and at most 1, got {args.vllm.vllm_gpu_util}",
    )
    require(
        args.infer.infer_concurrency >= 1, f"infer_concurrency: expected 1 or more, got {args.infer.infer_concurrency}"
    )
    require(args.export.export_size > 0, f"export_size: expected more than 0 GB, got {args.export.export_size}")


def _check_quantization(export: ExportArguments, method_given: bool) -> None:
    bits = export.export_quantization_bit
    if bits is None:
        require(not method_given, "export_quantization_bit: missing, export_quantization_method needs it; 4 or 8")
        return
    require(bits in (4, 8), f"export_quantization_bit: expected 4 or 8, got {bits}")
    require(
        bits == 8 or export.export_quantization_method != "fp8",
        f"export_quantization_bit: {bits}, but export_quantization_method fp8 has 8",
    )
    require(
        export.export_quantization_dataset is not None,
        "export_quantization_dataset: missing, export_quantization_bit needs calibration rows",
    )
    require(
        export.export_quantization_group_size in (32, 64, 128),
        f"export_quantization_group_size: expected 32, 64 or 128, got {export.export_quantization_group_size}",
    )
    for key, least in (("export_quantization_nsamples", 1), ("export_quantization_maxlen", 2)):
        require(getattr(export, key) >= least, f"{key}: expected {least} or more, got {getattr(export, key)}")
