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
    require(
        not args.export.export_dequantized or args.quantization.quantization_bit is not None,
        "export_dequantized: needs quantization_bit, which says how the weights were rounded",
    )
    engine_settings("vllm_config", args.vllm.vllm_config)
    engine_settings("sglang_config", args.sglang.sglang_config)


def _check_quantization(export: ExportArguments, method_given: bool) -> None:
    bits = export.export_quantization_bit
    if bits is None:
        require(not method_given, "export_quantization_bit: missing, export_quantization_method needs it; 4 or 8")
        return
    require(
        bits == 8 or export.export_quantization_method != "fp8",
        f"export_quantization_bit: {bits}, but export_quantization_method fp8 has 8",
    )
    if export.export_quantization_method == "fp8":
        require(
            export.export_quantization_symmetric is not False,
            "export_quantization_symmetric: false, but the floats of export_quantization_method fp8 have no zeros",
        )
        require(
            not export.export_quantization_epochs,
            "export_quantization_epochs: only integers are tuned, not export_quantization_method fp8",
        )
    require(
        export.export_quantization_dataset is not None,
        "export_quantization_dataset: missing, export_quantization_bit needs calibration rows",
    )
