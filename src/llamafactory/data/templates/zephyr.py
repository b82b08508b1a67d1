# SPDX-License-Identifier: Apache-2.0
"""Zephyr, StarChat."""

from ..template.chat_template import ChatTemplate

zephyr = ChatTemplate(
    name="zephyr",
    system="<|system|>\n{{content}}{{eos}}\n",
    user="<|user|>\n{{content}}{{eos}}\n",
    generation="<|assistant|>\n",
    assistant="{{content}}{{eos}}",
    gap="\n",
    tool="<|tool|>\n{{content}}{{eos}}\n",
)

starchat = ChatTemplate(
    name="starchat",
    system="<|system|>\n{{content}}<|end|>\n",
    user="<|user|>\n{{content}}<|end|>\n",
    generation="<|assistant|>\n",
    assistant="{{content}}<|end|>",
    gap="\n",
    tool="<|tool|>\n{{content}}<|end|>\n",
    stop=("<|end|>",),
    special_tokens=("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
)
