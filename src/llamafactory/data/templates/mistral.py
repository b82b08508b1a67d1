# SPDX-License-Identifier: Apache-2.0
"""Mistral: v0.1/v0.2 and Mixtral, v0.3, Nemo and Ministral (tekken), Small (with a system turn)."""

from dataclasses import replace

from ..template.chat_template import ChatTemplate

mistral = ChatTemplate(
    name="mistral",
    prefix="{{bos}}",
    merge_system="{{content}}\n\n",
    user="[INST] {{content}}[/INST]",
    text_start=" ",
    tool='[TOOL_RESULTS] {"content": {{content}}, "call_id": "{{id}}"}[/TOOL_RESULTS]',
    tool_format="mistral",
    tools_in="before_last_user",
    strip=("assistant",),
)

mistral_v1 = replace(mistral, name="mistral_v1", user=" [INST] {{content}} [/INST]", strip=())

ministral = replace(
    mistral,
    name="ministral",
    user="[INST]{{content}}[/INST]",
    text_start="",
    tool='[TOOL_RESULTS]{"content": {{content}}, "call_id": "{{id}}"}[/TOOL_RESULTS]',
    tool_format="mistral_tekken",
    strip=(),
    special_tokens=("[INST]", "[/INST]"),
)

mistral_small = replace(
    ministral,
    name="mistral_small",
    merge_system=None,
    system="[SYSTEM_PROMPT]{{content}}[/SYSTEM_PROMPT]",
    tool="[TOOL_RESULTS]{{id}}[TOOL_CONTENT]{{content}}[/TOOL_RESULTS]",
    tool_format="mistral_small",
    special_tokens=("[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"),
    media="pixtral",
)

pixtral = replace(ministral, name="pixtral", media="pixtral")

ministral3 = replace(
    mistral_small,
    name="ministral3",
    tool="[TOOL_RESULTS]{{content}}[/TOOL_RESULTS]",
    tool_format="ministral3",
    tools_in="turn_after_system",
    media="ministral3",
)
