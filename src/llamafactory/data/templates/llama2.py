# SPDX-License-Identifier: Apache-2.0
"""Llama 2: the system text opens the first user turn, and every user turn begins a sequence."""

from dataclasses import replace

from ..template.chat_template import ChatTemplate

llama2 = ChatTemplate(
    name="llama2",
    merge_system="<<SYS>>\n{{content}}\n<</SYS>>\n\n",
    user="{{bos}}[INST] {{content}} [/INST]",
    assistant=" {{content}} {{eos}}",
    strip=("user_turn", "assistant"),
)

llama2_zh = replace(llama2, name="llama2_zh", default_system="You are a helpful assistant. 你是一个乐于助人的助手。")
