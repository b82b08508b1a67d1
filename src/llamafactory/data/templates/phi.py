# SPDX-License-Identifier: Apache-2.0
"""Phi-3 and 3.5, Phi-3-small, Phi-4 and Phi-4-mini."""

from dataclasses import replace

from ..template.chat_template import ChatTemplate

phi4 = ChatTemplate(
    name="phi4",
    system="<|im_start|>system<|im_sep|>{{content}}<|im_end|>",
    user="<|im_start|>user<|im_sep|>{{content}}<|im_end|>",
    generation="<|im_start|>assistant<|im_sep|>",
    assistant="{{content}}<|im_end|>",
    tool="<|im_start|>tool<|im_sep|>{{content}}<|im_end|>",
    stop=("<|im_end|>",),
    eos="<|im_end|>",
    special_tokens=("<|im_start|>", "<|im_sep|>", "<|im_end|>"),
)

# EOS (<|endoftext|>) closes the conversation; <|end|> closes a turn, so generation stops at both.
phi4_mini = ChatTemplate(
    name="phi4_mini",
    bos_eos=("<|endoftext|>", "<|endoftext|>"),
    system="<|system|>{{content}}<|end|>",
    user="<|user|>{{content}}<|end|>",
    generation="<|assistant|>",
    assistant="{{content}}<|end|>",
    tool="<|tool|>{{content}}<|end|>",
    suffix="{{eos}}",
    tool_format="phi4_mini",
    tools_join="",
    stop=("<|end|>",),
    special_tokens=("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
)

phi = replace(
    phi4_mini,
    name="phi",
    bos_eos=("<s>", "<|endoftext|>"),
    system="<|system|>\n{{content}}<|end|>\n",
    user="<|user|>\n{{content}}<|end|>\n",
    generation="<|assistant|>\n",
    gap="\n",
    tool="<|tool|>\n{{content}}<|end|>\n",
    tool_format="default",
    tools_join="\n\n",
    skip_empty_system=True,
)

phi_small = replace(
    phi, name="phi_small", skip_empty_system=False, bos_eos=("<|endoftext|>", "<|endoftext|>"), prefix="{{bos}}"
)
