# SPDX-License-Identifier: Apache-2.0
"""EETQ: 8 bits, by kernels for NVIDIA GPUs that transformers fetches through the package ``kernels``. To serve alone:
PEFT 0.21 puts adapters on the layers of the package ``eetq``, which are not those of transformers 5."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .quantizer import Quantizer

if TYPE_CHECKING:
    from ...hparams import Dtypes
    from ...hparams.model_args import QuantizationArguments


def _options(settings: QuantizationArguments, dtypes: Dtypes, whole: list[str] | None) -> dict[str, Any]:
    from transformers import EetqConfig

    return {"quantization_config": EetqConfig("int8", modules_to_not_convert=whole)}


quantizer = Quantizer(
    "eetq",
    bits={8: ()},
    packages=(("kernels", "kernels"),),
    devices=("cuda",),
    no_adapters="PEFT has no adapters for the EETQ layers of transformers 5; bnb, torchao, hqq, quanto have 8 bits too",
    options=_options,
)
