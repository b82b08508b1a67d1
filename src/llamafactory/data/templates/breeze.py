# SPDX-License-Identifier: Apache-2.0
"""Breeze 7B: Mistral's marks with more spaces, and a system text before them."""

from ..template.chat_template import ChatTemplate

breeze = ChatTemplate(
    name="breeze",
    prefix="{{bos}}",
    default_system=(
        "You are a helpful AI assistant built by MediaTek Research. The user you are helping speaks Traditional Chinese "
        "and comes from Taiwan."
    ),
    system=" {{content}} ",
    user=" [INST] {{content}} [/INST] ",
    assistant="{{content}}",
    end="{{eos}}",
    tool=" [TOOL] {{content}} [/TOOL] ",
    strip=("system",),
)
