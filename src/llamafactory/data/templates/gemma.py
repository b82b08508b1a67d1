# SPDX-License-Identifier: Apache-2.0
"""Gemma 1 to 3: no system turn; the system text opens the first user turn."""

from dataclasses import replace

from ..template import ChatTemplate

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

gemma3 = replace(gemma, name="gemma3")

gemma3n = replace(gemma, name="gemma3n")

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
)

paligemma_chat = replace(gemma, name="paligemma_chat")
