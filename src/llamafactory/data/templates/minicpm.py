# SPDX-License-Identifier: Apache-2.0
"""MiniCPM 4 and the MiniCPM-V and -o models (their text part): ChatML."""

from dataclasses import replace

from .chatml import chatml
from .qwen import qwen, qwen3, qwen3_5_nothink

cpm4 = replace(chatml, name="cpm4", prefix="{{auto_bos}}")

minicpm_v = replace(qwen3, name="minicpm_v", asked_prompt="<think>\n")

minicpm_o = replace(
    qwen,
    name="minicpm_o",
    default_system="You are a helpful assistant. You can accept audio and text input and output voice and text.",
)

minicpm_v_4_6 = replace(qwen3_5_nothink, name="minicpm_v_4_6", media="minicpm_v_4_6")
