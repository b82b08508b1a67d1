# SPDX-License-Identifier: Apache-2.0
"""Llama 3, and 3.1 to 3.3, which always have a system turn with two dates in it."""

from dataclasses import replace

from ..template.chat_template import ChatTemplate

llama3 = ChatTemplate(
    name="llama3",
    bos_eos=("<|begin_of_text|>", "<|eot_id|>"),
    prefix="{{bos}}",
    system="<|start_header_id|>system<|end_header_id|>\n\n{{content}}<|eot_id|>",
    user="<|start_header_id|>user<|end_header_id|>\n\n{{content}}<|eot_id|>",
    generation="<|start_header_id|>assistant<|end_header_id|>\n\n",
    assistant="{{content}}<|eot_id|>",
    tool="<|start_header_id|>ipython<|end_header_id|>\n\n{{json}}<|eot_id|>",
    tool_format="llama3",
    tools_in="first_user",
    strip=("system", "user", "assistant"),
    stop=("<|eot_id|>", "<|eom_id|>"),
    eos="<|eot_id|>",
    special_tokens=("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
)

_DATES = "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"
_SYSTEM = "<|start_header_id|>system<|end_header_id|>\n\n"

# The official texts of 3.1 and 3.3 freeze this date; 3.2 writes the day of the call, which no training set can match.
llama3_1 = replace(
    llama3,
    name="llama3_1",
    default_system="",
    first_system=_SYSTEM + _DATES + "{{content}}<|eot_id|>",
    first_system_with_tools=_SYSTEM + "Environment: ipython\n" + _DATES + "{{content}}<|eot_id|>",
)

mllama = replace(llama3_1, name="mllama", strip=("system",), media="mllama")

llama4 = replace(
    llama3,
    name="llama4",
    system="<|header_start|>system<|header_end|>\n\n{{content}}<|eot|>",
    first_system_with_tools="<|header_start|>system<|header_end|>\n\nEnvironment: ipython\n{{content}}<|eot|>",
    user="<|header_start|>user<|header_end|>\n\n{{content}}<|eot|>",
    generation="<|header_start|>assistant<|header_end|>\n\n",
    assistant="{{content}}<|eot|>",
    tool_format="llama4",
    tool="<|header_start|>ipython<|header_end|>\n\n{{json}}<|eot|>",
    strip=("system",),
    stop=("<|eot|>", "<|eom|>"),
    eos="<|eot|>",
    special_tokens=("<|header_start|>", "<|header_end|>", "<|eot|>"),
    media="llama4",
)
