# SPDX-License-Identifier: Apache-2.0
"""Gemma 1 to 3: no system turn, the system text opens the first user turn; Gemma 4 has one."""

from dataclasses import replace

from ..template.chat_template import ChatTemplate

gemma = ChatTemplate(
    name="gemma",
    bos_eos=("<bos>", "<eos>"),
    prefix="{{bos}}",
    merge_system="{{content}}\n\n",
    user="<start_of_turn>user\n{{content}}<end_of_turn>\n",
    generation="<start_of_turn>model\n",
    assistant="{{content}}<end_of_turn>",
    gap="\n",
    tool="<start_of_turn>tool\n{{content}}<end_of_turn>\n",
    strip=("user", "assistant"),
    stop=("<end_of_turn>",),
    eos="<end_of_turn>",
    special_tokens=("<start_of_turn>", "<end_of_turn>"),
)

gemma2 = replace(gemma, name="gemma2")

gemma3 = replace(gemma, name="gemma3", media="gemma3")

gemma3n = replace(gemma, name="gemma3n", media="gemma3n")

paligemma = replace(
    gemma,
    name="paligemma",
    merge_system="{{content}}\n\n",
    user="{{content}}\n",
    generation="",
    assistant="{{content}}{{eos}}",
    gap="",
    tool="{{content}}\n",
    strip=(),
    stop=(),
    eos=None,
    special_tokens=(),
    media="paligemma",
)

paligemma_chat = replace(gemma, name="paligemma_chat")

# As officially, thinking is off unless it is asked for: the prompt closes the thought. An answer goes on after a tool's, in the same turn.
gemma4 = ChatTemplate(
    name="gemma4",
    prefix="{{bos}}",
    system="<|turn>system\n{{content}}<turn|>\n",
    user="<|turn>user\n{{content}}<turn|>\n",
    generation="<|turn>model\n",
    assistant="{{content}}<turn|>",
    gap="\n",
    calls_end="<|tool_response>",
    tool='response:{{name}}{value:<|"|>{{content}}<|"|>}<tool_response|>',
    tool_join="<|tool_response>",
    generation_after_tool="",
    tool_format="gemma4",
    tools_join="",
    thought=("<|channel>thought\n", "\n<channel|>"),
    thought_prompt="<|channel>thought\n<channel|>",
    asked_prompt="",
    asked_after_tool="<|channel>thought\n",
    asked_system="<|think|>\n",
    no_thought_prompt="<|channel>thought\n<channel|>",
    empty_thought="never",
    strip=("system", "user", "assistant"),
    stop=("<turn|>", "<|tool_response>"),
    eos="<turn|>",
    special_tokens=("<|turn>", "<turn|>", "<|channel>", "<channel|>", "<|tool_call>", "<tool_call|>", "<|think|>"),
    bos_eos=("<bos>", "<eos>"),
    media="gemma4",
)

gemma4n = replace(gemma4, name="gemma4n", thought_prompt="", no_thought_prompt="")
