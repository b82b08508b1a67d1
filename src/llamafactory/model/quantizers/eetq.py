# SPDX-License-Identifier: Apache-2.0
"""EETQ: 8 bits, by kernels for NVIDIA GPUs that transformers fetches through the package ``kernels``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .quantizer import Quantizer

if TYPE_CHECKING:
    from ...hparams import Dtypes
    from ...hparams.model_args import QuantizationArguments


def _options(settings: QuantizationArguments, dtypes: Dtypes) -> dict[str, Any]:
    from transformers import EetqConfig

    return {"quantization_config": EetqConfig("int8")}


quantizer = Quantizer("eetq", bits={8: ()}, packages=(("kernels", "kernels"),), devices=("cuda",), options=_options)
