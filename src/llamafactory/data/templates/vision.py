# SPDX-License-Identifier: Apache-2.0
"""Other vision models whose text part is that of a language model: Keye-VL, MOSS-VL, dots.ocr."""

from dataclasses import replace

from ..template.chat_template import ChatTemplate
from .qwen import qwen3, qwen3_nothink

keye_vl = replace(qwen3, name="keye_vl")

moss_vl = replace(qwen3_nothink, name="moss_vl")

dots_ocr = ChatTemplate(
    name="dots_ocr",
    system="<|system|>{{content}}<|endofsystem|>\n",
    user="<|user|>{{content}}<|endofuser|>",
    generation="<|assistant|>",
    assistant="{{content}}<|endofassistant|>",
    tool="<|user|>{{content}}<|endofuser|>",
    stop=("<|endofassistant|>",),
    special_tokens=(
        "<|system|>",
        "<|endofsystem|>",
        "<|user|>",
        "<|endofuser|>",
        "<|assistant|>",
        "<|endofassistant|>",
    ),
)
