# SPDX-License-Identifier: Apache-2.0
"""MiMo of Xiaomi: ChatML with Qwen's tools and a default system text."""

from dataclasses import replace

from .qwen import qwen

mimo = replace(
    qwen,
    name="mimo",
    default_system="You are a helpful assistant.",
    thought=("<think>\n", "\n</think>\n\n"),
    keep_thoughts=True,
    empty_thought="never",
)

mimo_vl = replace(
    mimo, name="mimo_vl", default_system="You are MiMo, an AI assistant developed by Xiaomi.", media="qwen2_vl"
)

# V2 has no line breaks between turns, and shows an empty thought in every turn without one.
mimo_v2 = replace(
    mimo,
    name="mimo_v2",
    default_system="You are MiMo, a helpful AI assistant engineered by Xiaomi.",
    system="<|im_start|>system\n{{content}}<|im_end|>",
    user="<|im_start|>user\n{{content}}<|im_end|>",
    gap="",
    tool_open="<|im_start|>tool\n",
    tool="<tool_response>\n{{content}}\n</tool_response>\n",
    tool_close="<|im_end|>",
    tool_format="mimo_v2",
    thought=("<think>", "</think>"),
    no_thought="<think></think>",
    thought_prompt="<think></think>",
    asked_prompt="",
    keep_thoughts=False,
)
