# SPDX-License-Identifier: Apache-2.0
"""MiniMax Text-01 and M1, and M2."""

from ..template.chat_template import ChatTemplate

minimax1 = ChatTemplate(
    name="minimax1",
    prefix="<begin_of_document>",
    system="<beginning_of_sentence>system ai_setting=assistant\n{{content}}<end_of_sentence>\n",
    gather_system="",
    skip_empty_system=True,
    user="<beginning_of_sentence>user name=user\n{{content}}<end_of_sentence>\n",
    generation="<beginning_of_sentence>ai name=assistant\n",
    assistant="{{content}}<end_of_sentence>",
    gap="\n",
    tool_open="<beginning_of_sentence>tool name=tools\n",
    tool="tool name: {{name}}\ntool result: {{content}}\n\n",
    tool_close="<end_of_sentence>\n",
    tool_format="minimax1",
    tools_in="turn_after_system",
    tools_turn="<beginning_of_sentence>system tool_setting=tools\n{{content}}<end_of_sentence>\n",
    eos="<end_of_sentence>",
    stop=("<end_of_sentence>",),
    special_tokens=("<begin_of_document>", "<beginning_of_sentence>", "<end_of_sentence>"),
)

minimax2 = ChatTemplate(
    name="minimax2",
    prefix="]~!b[",
    skip_empty_system=True,
    default_system="You are MiniMax-M2, a helpful AI assistant built by MiniMax. Knowledge cutoff: 2025-06.",
    system="]~b]system\n{{content}}[e~[\n",
    user="]~b]user\n{{content}}[e~[\n",
    generation="]~b]ai\n",
    assistant="{{content}}[e~[",
    gap="\n",
    tool_open="]~b]tool",
    tool="\n<response>{{content}}</response>",
    tool_close="[e~[\n",
    tool_format="minimax2",
    thought=("<think>\n", "\n</think>\n\n"),
    thought_prompt="<think>\n",
    empty_thought="never",
    strip=("answer",),
    eos="[e~[",
    stop=("[e~[",),
    special_tokens=("]~!b[", "]~b]", "[e~["),
)
