# SPDX-License-Identifier: Apache-2.0
"""Hunyuan's small dense models: fenced JSON between tags."""

from .json_format import JsonToolFormat

_HEAD = (
    "# Tools\\n\\nYou may call one or more functions to assist with the user query.\\n\\n"
    "You are provided with function signatures within <tools></tools> XML tags:\\n<tools>\\n"
)
_TAIL = (
    "\\n</tools>\\n\\nFor function call returns, you should first print <tool_calls>"
    "For each function call, you should return object like:\\n<tool_call>function_name\\n```json\\n"
    "function_arguments_in_json_format\\n```</tool_call>"
    "At the end of function call returns, you should print </tool_calls>"
)
# The family puts no line break between the first two tools.
_TOOLS = f"""
{{{{- '{_HEAD}' -}}}}
{{%- for tool in tools -%}}
{{%- set function = tool.function if tool.function is defined else tool -%}}
{{{{- ('\\n' if loop.index0 > 1 else '') ~ ({{'type': 'function', 'function': function}} | tojson) -}}}}
{{%- endfor -%}}
{{{{- '{_TAIL}' -}}}}
"""

tool_format = JsonToolFormat(
    listing=("", _TOOLS),
    calls_open="<tool_calls>",
    call="<tool_call>{{name}}\n```json\n{{arguments}}\n```</tool_call>",
    call_join="\n",
    calls_close="</tool_calls>",
    start=r"<tool_call>(?P<name>[^\n<]+)\n```json\n",
)
