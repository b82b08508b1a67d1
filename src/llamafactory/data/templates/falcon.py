# SPDX-License-Identifier: Apache-2.0
"""Falcon 7B/40B, and Falcon-H1 (ChatML with a start token)."""

from dataclasses import replace

from ..template.chat_template import ChatTemplate
from .chatml import chatml

falcon = ChatTemplate(
    name="falcon",
    bos_eos=("", "<|endoftext|>"),
    user="\n\nUser: {{content}}",
    generation="\n\nAssistant:",
    assistant=" {{content}}",
    end="{{eos}}",
    tool="\n\nTool: {{content}}",
    strip=("system", "user", "assistant"),
    stop=("\nUser:",),
)

falcon_h1 = replace(
    chatml,
    name="falcon_h1",
    bos_eos=("<|begin_of_text|>", "<|im_end|>"),
    prefix="{{bos}}",
    tool_format="falcon_h1",
    stop=("<|im_end|>", "<|end_of_text|>"),
)
