# SPDX-License-Identifier: Apache-2.0
"""Hunyuan of Tencent: A13B and 7B, the dense small ones, and the translation models."""

from dataclasses import replace

from ..template.chat_template import ChatTemplate

hunyuan = ChatTemplate(
    name="hunyuan",
    merge_system="{{content}}<|extra_4|>",
    user="<|startoftext|>{{content}}<|extra_0|>",
    assistant="{{content}}<|eos|>",
    tool="<|startoftext|>{{content}}<|extra_0|>",
    stop=("<|eos|>",),
    special_tokens=("<|startoftext|>", "<|extra_4|>", "<|extra_0|>", "<|eos|>"),
)

hunyuan_small = ChatTemplate(
    name="hunyuan_small",
    bos_eos=("<｜hy_begin▁of▁sentence｜>", "<｜hy_place▁holder▁no▁2｜>"),
    prefix="{{bos}}",
    system="{{content}}<｜hy_place▁holder▁no▁3｜>",
    user="<｜hy_User｜>{{content}}",
    generation="<｜hy_Assistant｜>",
    assistant="{{content}}{{eos}}",
    tool_open="<｜hy_User｜><tool_responses>",
    tool="<tool_response>{{content}}</tool_response>",
    tool_join="\n",
    tool_close="</tool_responses>",
    tool_format="hunyuan_small",
    gather_system="\n\n",
    skip_empty_system=True,
    stop=("<｜hy_place▁holder▁no▁2｜>",),
    special_tokens=(
        "<｜hy_begin▁of▁sentence｜>",
        "<｜hy_User｜>",
        "<｜hy_Assistant｜>",
        "<｜hy_place▁holder▁no▁2｜>",
        "<｜hy_place▁holder▁no▁3｜>",
    ),
)

hy_dense_1_8b = replace(
    hunyuan_small,
    name="hy_dense_1_8b",
    prefix="<｜hy_begin▁of▁sentence｜>",
    assistant="{{content}}<｜hy_place▁holder▁no▁2｜>",
    gather_system=None,
    skip_empty_system=False,
    tool_open="",
    tool="<｜hy_User｜>{{content}}",
    tool_join="",
    tool_close="",
    tool_format="default",
    suffix="<｜hy_place▁holder▁no▁8｜>",
)

hy_dense_7b = replace(hunyuan, name="hy_dense_7b")

_EFFORT = "<｜reasoning_mode:opensource｜>reasoning_effort:no_think"

# As officially, thinking is off: the prompt holds an empty thought.
hy3 = ChatTemplate(
    name="hy3",
    prefix="<｜hy_begin_of_sentence:opensource｜>",
    system="{{content}}" + _EFFORT,
    no_system=_EFFORT,
    gather_system="",
    user="<｜hy_User:opensource｜>{{content}}",
    generation="<｜hy_Assistant:opensource｜>",
    assistant="{{content}}<｜hy_eos:opensource｜>",
    tool_open="<tool_responses:opensource>\n",
    tool="<tool_response:opensource>\n{{content}}\n</tool_response:opensource>\n",
    tool_close="</tool_responses:opensource>",
    tool_format="hy3",
    thought=("<think:opensource>", "</think:opensource>"),
    no_thought="<think:opensource></think:opensource>",
    thought_prompt="<think:opensource></think:opensource>",
    empty_thought="never",
    eos="<｜hy_eos:opensource｜>",
    stop=("<｜hy_eos:opensource｜>",),
    special_tokens=(
        "<｜hy_begin_of_sentence:opensource｜>",
        "<｜hy_User:opensource｜>",
        "<｜hy_Assistant:opensource｜>",
    ),
)
