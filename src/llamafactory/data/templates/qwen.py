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

_VISION = "You are a helpful assistant."

qwen2_vl = replace(_base, name="qwen2_vl", default_system=_VISION, media="qwen2_vl")

qwen2_audio = replace(qwen2_vl, name="qwen2_audio", media="qwen2_audio")

qwen2_omni = replace(qwen2_vl, name="qwen2_omni", media="qwen2_omni")

qwen3_omni = replace(
    qwen3, name="qwen3_omni", tools_alone="<|im_start|>system\n\n\n{{content}}<|im_end|>\n", media="qwen3_omni"
)

qwen3_omni_nothink = replace(qwen3_nothink, name="qwen3_omni_nothink", media="qwen3_omni")

qwen3_vl = replace(qwen3, name="qwen3_vl", thought_prompt="<think>\n", media="qwen3_vl")

qwen3_vl_nothink = replace(qwen3_nothink, name="qwen3_vl_nothink", media="qwen3_vl")

qwen3_5 = replace(
    qwen3,
    name="qwen3_5",
    tool_format="qwen3_5",
    tools_in="before_system",
    empty_thought="open",
    thought_prompt="<think>\n",
    strip=("system", "user", "assistant", "tool", "thought", "answer"),
    media="qwen3_vl",
)

# The same text, but its prompt closes the thought at once.
qwen3_5_nothink = replace(
    qwen3_5, name="qwen3_5_nothink", thought_prompt="<think>\n\n</think>\n\n", asked_prompt="<think>\n"
)

qwen3_6 = replace(qwen3_5, name="qwen3_6", tool_format="qwen3_6")

_CODER = "You are Qwen, a helpful AI assistant that can interact with a computer to solve tasks."

qwen3_coder_next = replace(
    qwen3_nothink,
    name="qwen3_coder_next",
    tool_format="qwen3_coder_next",
    tools_alone=f"<|im_start|>system\n{_CODER}\n\n{{{{content}}}}<|im_end|>\n",
)

qwen3_coder = replace(
    qwen3_coder_next,
    name="qwen3_coder",
    tool_format="qwen3_coder",
    tool_open="<|im_start|>user\n",
    tool="<tool_response>\n{{content}}\n</tool_response>\n",
)
