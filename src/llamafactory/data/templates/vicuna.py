# SPDX-License-Identifier: Apache-2.0
"""Vicuna 1.1 and later, as FastChat writes it."""

from ..template.chat_template import ChatTemplate

vicuna = ChatTemplate(
    name="vicuna",
    default_system=(
        "A chat between a curious user and an artificial intelligence assistant. "
        "The assistant gives helpful, detailed, and polite answers to the user's questions."
    ),
    prefix="{{auto_bos}}",
    system="{{content}} ",
    user="USER: {{content}} ",
    generation="ASSISTANT:",
    assistant=" {{content}}{{eos}}",
    tool="OBSERVATION: {{content}} ",
)
