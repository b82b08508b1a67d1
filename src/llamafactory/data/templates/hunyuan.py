# SPDX-License-Identifier: Apache-2.0
"""Hunyuan of Tencent: A13B and 7B, the dense small ones, and the translation models."""

from dataclasses import replace

from ..template import ChatTemplate

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
    tool="<｜hy_User｜>{{content}}",
    gather_system="\n\n",
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
    suffix="<｜hy_place▁holder▁no▁8｜>",
)

hy_dense_7b = replace(hunyuan, name="hy_dense_7b")
