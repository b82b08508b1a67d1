# SPDX-License-Identifier: Apache-2.0
"""GLM-4: the name on a line, JSON arguments on the next; several calls are several assistant turns."""

from dataclasses import replace

from .json_format import JsonToolFormat

tool_format = JsonToolFormat(
    head="# 可用工具\n",
    tool="\n## {{name}}\n\n{{function}}\n在调用上述函数时，请使用 Json 格式表示调用的参数。",
    indent=4,
    join="",
    tail="",
    content_join="<|assistant|>",
    call="{{name}}\n{{arguments}}",
    call_join="<|assistant|>",
    start=r"(?:^|<\|assistant\|>)(?P<name>[^\s<|]+)\n(?=\{)",
)

z1 = replace(
    tool_format,
    head=(
        "你是一个名为 ChatGLM 的人工智能助手。你是基于智谱 AI 公司训练的语言模型 GLM-4 模型开发的，"
        "你的任务是针对用户的问题和要求提供适当的答复和支持。\n\n# 可用工具"
    ),
)
