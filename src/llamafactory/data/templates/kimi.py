# SPDX-License-Identifier: Apache-2.0
"""Moonlight and Kimi-VL: one start token a role."""

from dataclasses import replace

from ..template.chat_template import ChatTemplate

moonlight = ChatTemplate(
    name="moonlight",
    default_system="You are a helpful assistant",
    system="<|im_system|>system<|im_middle|>{{content}}<|im_end|>",
    user="<|im_user|>user<|im_middle|>{{content}}<|im_end|>",
    generation="<|im_assistant|>assistant<|im_middle|>",
    assistant="{{content}}<|im_end|>",
    tool="<|im_system|>tool<|im_middle|>{{content}}<|im_end|>",
    eos="<|im_end|>",
    stop=("<|im_end|>",),
    special_tokens=("<|im_system|>", "<|im_user|>", "<|im_assistant|>", "<|im_middle|>", "<|im_end|>"),
)

kimi_vl = replace(moonlight, name="kimi_vl", thought=("◁think▷", "◁/think▷"), empty_thought="never")
