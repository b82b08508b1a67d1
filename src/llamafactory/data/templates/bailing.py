# SPDX-License-Identifier: Apache-2.0
"""Ling and Ring of inclusionAI: lite 1.0/1.5 (no end token of turns), 2.0."""

from dataclasses import replace

from ..template.chat_template import ChatTemplate

bailing = ChatTemplate(
    name="bailing",
    bos_eos=("<|startoftext|>", "<|endoftext|>"),
    system="<role>SYSTEM</role>{{content}}",
    user="<role>HUMAN</role>{{content}}",
    generation="<role>ASSISTANT</role>",
    assistant="{{content}}",
    end="{{eos}}",
    tool="<role>OBSERVATION</role>{{content}}",
    stop=("<|role_end|>",),
)

bailing_v2 = replace(
    bailing,
    name="bailing_v2",
    no_system="<role>SYSTEM</role>detailed thinking off<|role_end|>",
    system="<role>SYSTEM</role>{{content}}<|role_end|>",
    first_system="<role>SYSTEM</role>{{content}}\ndetailed thinking off<|role_end|>",
    user="<role>HUMAN</role>{{content}}<|role_end|>",
    assistant="{{content}}<|role_end|>",
    end="",
    tool_open="<role>OBSERVATION</role>",
    tool="\n<tool_response>\n{{content}}\n</tool_response>",
    tool_close="<|role_end|>",
    tool_format="ling",
    tools_join="\n",
    thought=("\n<think>\n", "\n</think>\n\n"),
    empty_thought="never",
    strip=("answer",),
    eos="<|role_end|>",
    special_tokens=("<role>", "</role>", "<|role_end|>"),
)
