# SPDX-License-Identifier: Apache-2.0
"""ChatGLM3 and GLM-4 to 4.7: turns have no end token; the start of the next turn ends an answer."""

from dataclasses import replace

from ..template.chat_template import ChatTemplate

glm4 = ChatTemplate(
    name="glm4",
    bos_eos=("", "<|endoftext|>"),
    prefix="[gMASK]<sop>",
    system="<|system|>\n{{content}}",
    gather_system="<|system|>\n",
    user="<|user|>\n{{content}}",
    generation="<|assistant|>",
    assistant="{{content}}",
    text_start="\n",
    end="{{eos}}",
    tool="<|observation|>\n{{content}}",
    tool_format="glm4",
    tools_in="turn_before_system",
    tools_turn="<|system|>\n{{content}}",
    stop=("<|user|>", "<|observation|>"),
    special_tokens=("[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"),
)

chatglm3 = replace(
    glm4,
    name="chatglm3",
    prefix="[gMASK]sop",
    system="<|system|>\n {{content}}",
    gather_system=None,
    user="<|user|>\n {{content}}",
    text_start="\n ",
    tool="<|observation|>\n {{content}}",
    special_tokens=("[gMASK]", "sop", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"),
)

# The official text drops every thought, even that of the last turn.
glmz1 = replace(
    glm4,
    name="glmz1",
    tool_format="glmz1",
    generation="<|assistant|>\n",
    text_start="",
    thought=("<think>\n", "\n</think>\n\n"),
    thought_prompt="<think>",
    empty_thought="never",
    strip=("user", "assistant", "tool"),
)

glm4v = replace(
    glm4,
    name="glm4v",
    gather_system=None,
    generation="<|assistant|>\n",
    text_start="",
    thought=("<think>", "</think>"),
    empty_thought="never",
    keep_thoughts=True,
    media="glm4v",
)

glm4_moe = replace(
    glm4,
    name="glm4_moe",
    gather_system=None,
    tool_open="<|observation|>",
    tool="\n<tool_response>\n{{content}}\n</tool_response>",
    tool_format="glm4_moe",
    thought=("\n<think>", "</think>"),
    no_thought="\n<think></think>",
    empty_thought="never",
    user_no_thinking="/nothink",
    strip=("assistant", "thought"),
)

glm4_5v = replace(
    glm4_moe,
    name="glm4_5v",
    generation="<|assistant|>\n",
    thought=("<think>", "</think>"),
    no_thought="<think></think>",
    no_thought_prompt="<think></think>\n",
    media="glm4v",
)

glm_ocr = replace(glm4_5v, name="glm_ocr", tool="\n<tool_response>\n{{content}}\n</tool_response>\n")

glm4_7 = replace(
    glm4_moe,
    name="glm4_7",
    system="<|system|>{{content}}",
    user="<|user|>{{content}}",
    text_start="",
    tool="<tool_response>{{content}}</tool_response>",
    tool_format="glm4_7",
    thought=("<think>", "</think>"),
    no_thought="</think>",
    thought_prompt="<think>",
    user_no_thinking="",
)

# Aeva: no official text is known; built as GLM-4.7.
aeva = replace(glm4_7, name="aeva", default_system="You are a helpful assistant.")
