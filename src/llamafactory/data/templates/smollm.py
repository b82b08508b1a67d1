# SPDX-License-Identifier: Apache-2.0
"""SmolLM and SmolLM2."""

from dataclasses import replace

from .chatml import chatml

smollm = replace(chatml, name="smollm")

smollm2 = replace(
    smollm,
    name="smollm2",
    default_system="You are a helpful AI assistant named SmolLM, trained by Hugging Face",
)
