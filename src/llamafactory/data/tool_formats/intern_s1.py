# SPDX-License-Identifier: Apache-2.0
"""Intern-S1: JSON calls between the marks of a plug-in's action."""

from .json_format import JsonToolFormat

_HEAD = (
    "Your response should consist of a reasoning step (**thought**) followed immediately by a function call in valid "
    "JSON format. Wrap each function call using the `<|action_start|><|plugin|>` and `<|action_end|>` tags.\\n\\n"
    "**Format example:**\\n\\n```\\n(Your thought goes here...)\\n\\n<|action_start|><|plugin|>\\n{\\n    "
    '"name": "tool_name",\\n    "parameters": {\\n        "parameter1": "value1",\\n        "parameter2": "value2"'
    "\\n    }\\n}\\n<|action_end|>\\n```\\n\\n# External Tools\\nYou have access to these tools:\\n"
)
_TOOLS = (
    "{{- '"
    + _HEAD
    + """' -}}
{%- set state = namespace(tools=[]) -%}
{%- for tool in tools -%}
{%- set function = tool.function if tool.function is defined else tool -%}
{%- set state.tools = state.tools + [{'type': 'function', 'function': function}] -%}
{%- endfor -%}
{{- state.tools | tojson(indent=2) -}}
"""
)

tool_format = JsonToolFormat(
    listing=("", _TOOLS),
    marks=("<|action_start|>", "<|plugin|>", "<|action_end|>"),
    call='<|action_start|><|plugin|>\n{"name": "{{name}}", "parameters": {{arguments}}}\n<|action_end|>',
    call_join="\n",
    start=r"<\|action_start\|><\|plugin\|>\s*(?=\{)",
)
