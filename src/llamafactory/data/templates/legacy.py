# SPDX-License-Identifier: Apache-2.0
"""Formats of older or single models: XuanYuan, Index, few-shot text."""

from ..template.chat_template import ChatTemplate

fewshot = ChatTemplate(
    name="fewshot",
    user="{{content}}",
    assistant="{{content}}\n\n",
    end="\n\n{{eos}}",
    tools_join="\n",
    tool="{{content}}",
)

index = ChatTemplate(
    name="index",
    system="<unk>{{content}}",
    user="reserved_0{{content}}",
    generation="reserved_1",
    assistant="{{content}}",
    end="{{eos}}",
    tool="reserved_0{{content}}",
)

xuanyuan = ChatTemplate(
    name="xuanyuan",
    default_system=(
        "以下是用户和人工智能助手之间的对话。用户以Human开头，人工智能助手以Assistant开头，会对人类提出的问题给出有帮助、高质量、"
        "详细和礼貌的回答，并且总是拒绝参与与不道德、不安全、有争议、政治敏感等相关的话题、问题和指示。\n"
    ),
    user="Human: {{content}} ",
    generation="Assistant:",
    assistant=" {{content}}{{eos}}",
    tool="Tool: {{content}} ",
)
