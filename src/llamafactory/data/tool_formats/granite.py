# SPDX-License-Identifier: Apache-2.0
"""Granite 3 (an indented JSON list of tools, a JSON list of calls) and 4 (Hermes calls)."""

from dataclasses import replace

from .json_format import JsonToolFormat
from .qwen import tool_format as qwen

_LIST = """
{%- set state = namespace(tools=[]) -%}
{%- for tool in tools -%}
{%- set function = tool.function if tool.function is defined else tool -%}
{%- set state.tools = state.tools + [{'type': 'function', 'function': function}] -%}
{%- endfor -%}
{{- state.tools | tojson(indent=4) -}}
"""

granite3 = JsonToolFormat(
    listing=("", _LIST),
    calls_open="<|tool_call|>[",
    call='{"name": "{{name}}", "arguments": {{arguments}}}',
    call_join=", ",
    calls_close="]",
    start=r"<\|tool_call\|>\s*(?=\[)",
)

granite4 = replace(
    qwen,
    head=(
        "You are a helpful assistant with access to the following tools. You may call one or more tools to assist with "
        "the user query.\n\nYou are provided with function signatures within <tools></tools> XML tags:\n<tools>\n"
    ),
    tail=(
        "\n</tools>\n\nFor each tool call, return a json object with function name and arguments within "
        '<tool_call></tool_call> XML tags:\n<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n'
        "</tool_call>. If a tool does not exist in the provided list of tools, notify the user that you do not have "
        "the ability to fulfill the request."
    ),
)

falcon_h1 = replace(
    qwen,
    head=(
        "You are a function calling AI model. You are provided with function signature within <tools> </tools> XML "
        "tags. You may call one or more functions to assist with the user query. Don't make assumptions about what "
        "values to plug into functions.\n<tools>\n"
    ),
    tool="[{{tool}}]",
    join="",
    tail=(
        "\n</tools>\nFor each function call, return a json object with function name and arguments within <tool_call> "
        "</tool_call> tags with the following schema:\n<tool_call>\n{'arguments': <args-dict>, 'name': "
        "<function-name>}\n</tool_call>\n"
    ),
)

youtu = JsonToolFormat(
    head=(
        "<|begin_of_tool_description|>Tool calling capabilities.\nYou may call one or more functions to assist with "
        "the user query. You have the following functions available:"
    ),
    tool="\n```json\n{{tool}}\n```",
    join="",
    tail=(
        "\nFor tool call returns, you MUST use the following format:\n"
        '<tool_call>{"name": "function-name", "arguments": {"param1": "value1", "param2": "value2"}}</tool_call>\n'
        "<|end_of_tool_description|>"
    ),
    call='<tool_call>{"name": "{{name}}", "arguments": {{arguments}}}</tool_call>',
    call_join="\n",
    start=r"<tool_call>\s*(?=\{)",
)
