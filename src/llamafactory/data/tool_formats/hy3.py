# SPDX-License-Identifier: Apache-2.0
"""Hy3: the tool list of Qwen; keys and values one by one, between tags that all bear the same mark."""

from .json_format import JsonToolFormat
from .qwen import tool_format as qwen

tool_format = JsonToolFormat(
    head=qwen.head,
    tool=qwen.tool,
    join=qwen.join,
    tail=(
        "\n</tools>\n\nFor function call returns, you should first print <tool_calls:opensource>\n"
        "For each function call, you should return object like:\n"
        "<tool_call:opensource>{function-name}<tool_sep:opensource>\n"
        "<arg_key:opensource>{arg-key-1}</arg_key:opensource>\n"
        "<arg_value:opensource>{arg-value-1}</arg_value:opensource>\n"
        "<arg_key:opensource>{arg-key-2}</arg_key:opensource>\n"
        "<arg_value:opensource>{arg-value-2}</arg_value:opensource>\n...\n</tool_call:opensource>\n"
        "At the end of function call returns, you should print </tool_calls:opensource>"
    ),
    calls_open="<tool_calls:opensource>\n",
    call="<tool_call:opensource>{{name}}<tool_sep:opensource>\n{{arguments}}</tool_call:opensource>\n",
    calls_close="</tool_calls:opensource>",
    argument=(
        "<arg_key:opensource>{{key}}</arg_key:opensource>\n<arg_value:opensource>{{value}}</arg_value:opensource>\n"
    ),
    start=r"<tool_call:opensource>(?P<name>[^\n<{]+)<tool_sep:opensource>\n",
)
