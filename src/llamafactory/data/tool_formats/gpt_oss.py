# SPDX-License-Identifier: Apache-2.0
"""GPT-OSS: each call goes to its tool in the commentary channel. Tools are listed as JSON, not TypeScript."""

from .json_format import JsonToolFormat

tool_format = JsonToolFormat(
    head="# Tools\n\n## functions\n\n",
    tool="{{function}}",
    join="\n",
    tail="",
    content_join="<|end|><|start|>assistant",
    call=" to=functions.{{name}}<|channel|>commentary json<|message|>{{arguments}}",
    call_join="<|call|><|start|>assistant",
    start=r" to=functions\.(?P<name>[^\s<]+)<\|channel\|>commentary json<\|message\|>",
)
