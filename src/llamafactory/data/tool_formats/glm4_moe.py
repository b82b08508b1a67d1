# SPDX-License-Identifier: Apache-2.0
"""GLM-4.5 to 4.7: keys and values one by one between tags."""

from dataclasses import replace

from .json_format import JsonToolFormat

_TAIL = (
    "\n</tools>\n\nFor each function call, output the function name and arguments within the following XML format:\n"
)
tool_format = JsonToolFormat(
    head=(
        "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
        "You are provided with function signatures within <tools></tools> XML tags:\n<tools>\n"
    ),
    tool="{{tool}}",
    join="\n",
    tail=_TAIL
    + (
        "<tool_call>{function-name}\n<arg_key>{arg-key-1}</arg_key>\n<arg_value>{arg-value-1}</arg_value>\n"
        "<arg_key>{arg-key-2}</arg_key>\n<arg_value>{arg-value-2}</arg_value>\n...\n</tool_call>"
    ),
    call="\n<tool_call>{{name}}\n{{arguments}}</tool_call>",
    argument="<arg_key>{{key}}</arg_key>\n<arg_value>{{value}}</arg_value>\n",
    start=r"\n?<tool_call>(?P<name>[^\n<{]+)\n",
)

# 4.7 has no line breaks in it.
compact = replace(
    tool_format,
    tail=_TAIL
    + (
        "<tool_call>{function-name}<arg_key>{arg-key-1}</arg_key><arg_value>{arg-value-1}</arg_value>"
        "<arg_key>{arg-key-2}</arg_key><arg_value>{arg-value-2}</arg_value>...</tool_call>"
    ),
    call="<tool_call>{{name}}{{arguments}}</tool_call>",
    argument="<arg_key>{{key}}</arg_key><arg_value>{{value}}</arg_value>",
    start=r"<tool_call>(?P<name>[^\n<{]+)(?=<)",
)
