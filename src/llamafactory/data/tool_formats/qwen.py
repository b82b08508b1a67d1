# SPDX-License-Identifier: Apache-2.0
"""Hermes-style calls between ``<tool_call>`` tags, as Qwen 2.5 and Qwen 3 write them."""

from .json_format import JsonToolFormat

tool_format = JsonToolFormat(
    head=(
        "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
        "You are provided with function signatures within <tools></tools> XML tags:\n<tools>\n"
    ),
    tool="{{tool}}",
    join="\n",
    tail=(
        "\n</tools>\n\nFor each function call, return a json object with function name and arguments within "
        '<tool_call></tool_call> XML tags:\n<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n'
        "</tool_call>"
    ),
    content_join="\n",
    call='<tool_call>\n{"name": "{{name}}", "arguments": {{arguments}}}\n</tool_call>',
    call_join="\n",
    start=r"<tool_call>\s*",
)
