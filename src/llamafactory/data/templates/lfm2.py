# SPDX-License-Identifier: Apache-2.0
"""LFM2 of Liquid AI, and its vision models (their text part)."""

from dataclasses import replace

from .chatml import chatml

lfm2 = replace(
    chatml,
    name="lfm2",
    bos_eos=("<|startoftext|>", "<|im_end|>"),
    prefix="{{bos}}",
    tool="<|im_start|>tool\n<|tool_response_start|>{{content}}<|tool_response_end|><|im_end|>\n",
    tool_format="lfm2",
    tools_join="\n",
    skip_empty_system=True,
)

lfm2_5 = replace(
    lfm2,
    name="lfm2_5",
    tool="<|im_start|>tool\n{{content}}<|im_end|>\n",
    tool_format="lfm2_5",
    thought=("<think>", "</think>"),
    empty_thought="never",
    strip=("answer",),
)

lfm2_vl = replace(lfm2, name="lfm2_vl", skip_empty_system=False, media="lfm2_vl")
