# SPDX-License-Identifier: Apache-2.0
"""Granite 3, 3 Vision and 4 of IBM."""

from dataclasses import replace

from ..template.chat_template import ChatTemplate

granite3 = ChatTemplate(
    name="granite3",
    system="<|start_of_role|>system<|end_of_role|>{{content}}<|end_of_text|>\n",
    user="<|start_of_role|>user<|end_of_role|>{{content}}<|end_of_text|>\n",
    generation="<|start_of_role|>assistant<|end_of_role|>",
    assistant="{{content}}<|end_of_text|>",
    gap="\n",
    tool="<|start_of_role|>tool_response<|end_of_role|>{{content}}<|end_of_text|>\n",
    tool_format="granite3",
    tools_in="turn_after_system",
    tools_turn="<|start_of_role|>available_tools<|end_of_role|>{{content}}<|end_of_text|>\n",
    eos="<|end_of_text|>",
    special_tokens=("<|start_of_role|>", "<|end_of_role|>", "<|end_of_text|>"),
)

granite4 = replace(
    granite3,
    name="granite4",
    default_system="You are a helpful assistant. Please ensure responses are professional, accurate, and safe.",
    tool_open="<|start_of_role|>user<|end_of_role|>",
    tool="\n<tool_response>\n{{content}}\n</tool_response>",
    tool_close="<|end_of_text|>\n",
    tool_format="granite4",
    tools_in="system",
    tools_turn="{{content}}",
    default_beside_tools=False,
    skip_empty_system=True,
    stop=("<|end_of_text|>",),
)

granite3_vision = ChatTemplate(
    name="granite3_vision",
    default_system=(
        "A chat between a curious user and an artificial intelligence assistant. "
        "The assistant gives helpful, detailed, and polite answers to the user's questions."
    ),
    system="<|system|>\n{{content}}\n",
    user="<|user|>\n{{content}}\n",
    generation="<|assistant|>\n",
    assistant="{{content}}<|end_of_text|>",
    tool="<|tool|>\n{{content}}\n",
    eos="<|end_of_text|>",
    special_tokens=("<|end_of_text|>",),
    media="granite3_vision",
)
