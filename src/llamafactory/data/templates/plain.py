# SPDX-License-Identifier: Apache-2.0
"""Formats for models that were never taught one."""

from ..template.chat_template import ChatTemplate

default = ChatTemplate(
    name="default",
    prefix="{{auto_bos}}",
    system="System: {{content}}\n",
    user="Human: {{content}}\n",
    generation="Assistant:",
    assistant=" {{content}}{{eos}}",
    gap="\n",
    tool="Observation: {{content}}\n",
)

# Nothing at all, not even a token that ends the answer: the data must hold whatever the model needs.
empty = ChatTemplate(name="empty", user="{{content}}", assistant="{{content}}", tools_join="\n")
