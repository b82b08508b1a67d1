# SPDX-License-Identifier: Apache-2.0
"""Qwen 1.5 to Qwen 3: ChatML with Hermes tools; tool answers share one user turn."""

from dataclasses import replace

from .chatml import chatml

_base = replace(
    chatml,
    tool_format="qwen",
    tool_open="<|im_start|>user",
    tool="\n<tool_response>\n{{content}}\n</tool_response>",
    tool_close="<|im_end|>\n",
)

qwen = replace(
    _base,
    name="qwen",
    default_system="You are Qwen, created by Alibaba Cloud. You are a helpful assistant.",
)

qwen2 = replace(_base, name="qwen2", default_system="You are a helpful assistant.")

qwen3 = replace(_base, name="qwen3", thought=("<think>\n", "\n</think>\n\n"), strip=("answer",))

qwen3_thinking = replace(qwen3, name="qwen3_thinking", thought_prompt="<think>\n")

qwen3_nothink = replace(_base, name="qwen3_nothink")
