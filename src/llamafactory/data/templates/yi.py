# SPDX-License-Identifier: Apache-2.0
"""Yi and its vision models."""

from dataclasses import replace

from ..template.chat_template import ChatTemplate
from .chatml import chatml

yi = replace(chatml, name="yi")

# Its system text has no marks.
yi_1_5 = replace(chatml, name="yi_1_5", first_system="{{content}}")

yi_vl = ChatTemplate(
    name="yi_vl",
    default_system=(
        "This is a chat between an inquisitive human and an AI assistant. Assume the role of the AI assistant. Read all "
        "the images carefully, and respond to the human's questions with informative, helpful, detailed and polite "
        "answers. 这是一个好奇的人类和一个人工智能助手之间的对话。假设你扮演这个AI助手的角色。仔细阅读所有的图像，并对人类的问题"
        "做出信息丰富、有帮助、详细的和礼貌的回答。"
    ),
    system="{{content}}\n\n",
    user="### Human: {{content}}\n",
    generation="### Assistant:",
    assistant=" {{content}}\n",
    end="\n{{eos}}",
    tool="### Tool: {{content}}\n",
    stop=("###",),
)
