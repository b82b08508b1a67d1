# SPDX-License-Identifier: Apache-2.0
"""Formats of checkpoints whose weights somebody has quantized: read for adapters, and not made while a model loads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .quantizer import Quantizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ...hparams import Dtypes
    from ...hparams.model_args import QuantizationArguments

_GPTQ = (("gptqmodel", "gptqmodel"), ("optimum", "optimum"))
# Methods that leave such layers alone, or that PEFT has for every kind of layer.
_BESIDE = ("ln_tuning", "trainable_tokens", "prompt_tuning", "p_tuning", "prefix_tuning")


def _unpack(model: PreTrainedModel, settings: QuantizationArguments, dtypes: Dtypes) -> None:
    """Unpack compressed weights now: by itself it happens in the first forward, and whoever looks before finds none."""
    compressor = getattr(getattr(model, "hf_quantizer", None), "compressor", None)
    if compressor is not None:
        compressor.decompress_model(model)


compressed_tensors = Quantizer(
    "compressed-tensors",
    packages=(("compressed_tensors", "compressed-tensors"),),
    dense=True,
    settle=_unpack,
)
fp8 = Quantizer("fp8", dense=True)
mxfp4 = Quantizer("mxfp4", dense=True)
gptq = Quantizer("gptq", packages=_GPTQ, adapters=("lora", "adalora", *_BESIDE))
awq = Quantizer("awq", packages=_GPTQ[:1], adapters=("lora", *_BESIDE))
aqlm = Quantizer("aqlm", packages=(("aqlm", "aqlm[cpu,gpu]"),), adapters=("lora", *_BESIDE))
