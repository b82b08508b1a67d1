# SPDX-License-Identifier: Apache-2.0
"""Youtu-LLM of Tencent, and Youtu-VL (its text part)."""

from ..template.chat_template import ChatTemplate

youtu = ChatTemplate(
    name="youtu",
    bos_eos=("<|begin_of_text|>", "<|end_of_text|>"),
    prefix="{{bos}}",
    gather_system="\n\n",
    user="<|User|>{{content}}",
    generation="<|Assistant|>",
    assistant="{{content}}<|end_of_text|>",
    tool_open="<|User|>",
    tool="<tool_response>{{content}}</tool_response>",
    tool_join="\n",
    tool_format="youtu",
    thought=("<think>\n", "\n</think>\n\n"),
    strip=("answer",),
    eos="<|end_of_text|>",
    stop=("<|end_of_text|>",),
    special_tokens=("<|User|>", "<|Assistant|>", "<|end_of_text|>"),
)

youtu_vl = ChatTemplate(
    name="youtu_vl",
    default_system="You are a helpful assistant.",
    system="<|begin_of_text|>system\n{{content}}<|end_of_text|>\n",
    user="<|begin_of_text|>user\n{{content}}<|end_of_text|>\n",
    generation="<|begin_of_text|>assistant\n",
    assistant="{{content}}<|end_of_text|>",
    gap="\n",
    tool="<|begin_of_text|>tool\n{{content}}<|end_of_text|>\n",
    eos="<|end_of_text|>",
    stop=("<|end_of_text|>",),
    special_tokens=("<|begin_of_text|>", "<|end_of_text|>"),
)
