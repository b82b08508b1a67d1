# SPDX-License-Identifier: Apache-2.0
"""Qwen 3.5, 3.6, Qwen3-Coder and MiMo-V2: calls as tags; the latter two list the tools as tags, too."""

from dataclasses import replace

from .json_format import JsonToolFormat

_FORMAT = (
    "\n\nIf you choose to call a function ONLY reply in the following format with NO suffix:\n\n"
    "<tool_call>\n<function=example_function_name>\n<parameter=example_parameter_1>\nvalue_1\n</parameter>\n"
    "<parameter=example_parameter_2>\nThis is the value for the second parameter\nthat can span\nmultiple lines\n"
    "</parameter>\n</function>\n</tool_call>\n\n<IMPORTANT>\nReminder:\n- Function calls MUST follow the specified "
    "format: an inner <function=...></function> block must be nested within <tool_call></tool_call> XML tags\n"
    "- Required parameters MUST be specified\n- You may provide optional reasoning for your function call in "
    "natural language BEFORE the function call, but NOT after\n- If there is no function call available, answer "
    "the question like normal with your current knowledge and do not "
    "tell the user about function calls\n</IMPORTANT>"
)
tool_format = JsonToolFormat(
    head="# Tools\n\nYou have access to the following functions:\n\n<tools>\n",
    tool="{{tool}}",
    join="\n",
    tail="\n</tools>" + _FORMAT,
    content_join="\n\n",
    call="<tool_call>\n<function={{name}}>\n{{arguments}}</function>\n</tool_call>",
    call_join="\n",
    argument="<parameter={{key}}>\n{{value}}\n</parameter>\n",
    values="python",
    start=r"<tool_call>\n<function=(?P<name>[^>\n]+)>\n",
)

# Booleans and nulls as in JSON.
json_values = replace(tool_format, values="text")

_MACROS = """
{%- macro further(schema, known) -%}
{%- if schema is mapping -%}
{%- for key in schema if key not in known -%}
{%- set value = schema[key] -%}
{{- '\\n<' ~ key ~ '>' -}}
{{- EXPRESSION -}}
{{- '</' ~ key ~ '>' -}}
{%- endfor -%}
{%- endif -%}
{%- endmacro -%}
"""
_TOOLS = """
{{- HEAD ~ '<tools>' -}}
{%- for tool in tools -%}
{%- set function = tool.function if tool.function is defined else tool -%}
{{- '\\n<function>\\n<name>' ~ function.name ~ '</name>' -}}
{{- '\\n<description>' ~ (function.description | trim) ~ '</description>' if function.description is defined else '' -}}
{{- '\\n<parameters>' -}}
{%- if function.parameters is mapping and function.parameters['properties'] is mapping -%}
{%- for key, value in function.parameters['properties'].items() -%}
{{- '\\n<parameter>\\n<name>' ~ key ~ '</name>' -}}
{{- '\\n<type>' ~ (value.type | string) ~ '</type>' if value.type is defined else '' -}}
{{- '\\n<description>' ~ (value.description | trim) ~ '</description>' if value.description is defined else '' -}}
{{- further(value, ['name', 'type', 'description']) ~ '\\n</parameter>' -}}
{%- endfor -%}
{%- endif -%}
{{- further(function.parameters, ['type', 'properties']) ~ '\\n</parameters>' -}}
{{- further(function, ['type', 'name', 'description', 'parameters']) ~ '\\n</function>' -}}
{%- endfor -%}
{{- '\\n</tools>' ~ FORMAT -}}
"""
_HEAD = "# Tools\n\nYou have access to the following functions:\n\n"
_SCALARS = "value | tojson if value is mapping or (value is sequence and value is not string) else value | string"


def _as_tags(head: str, format: str, expression: str) -> tuple[str, str]:
    """The list of tools as tags; ``expression`` writes what has no tag of its own."""
    quoted = {"HEAD": head, "FORMAT": format}
    tools = _TOOLS
    for name, text in quoted.items():
        escaped = text.replace("'", "\\'").replace("\n", "\\n")
        tools = tools.replace(name, f"'{escaped}'")
    return _MACROS.replace("EXPRESSION", expression), tools


coder = replace(tool_format, listing=_as_tags(_HEAD, _FORMAT, _SCALARS))
coder_next = replace(json_values, listing=_as_tags(_HEAD, _FORMAT, "value if value is string else value | tojson"))

_MIMO = (
    "\n\nFor each function call, output the function name and arguments in the following format:\n"
    "<tool_call>\n<function=example_function_name>\n<parameter=example_parameter_1>value_1</parameter>\n"
    "<parameter=example_parameter_2>This is the value for the second parameter\nthat can span\n"
    "multiple lines</parameter>\n</function>\n</tool_call>\n\n<IMPORTANT>\n- Function calls MUST follow the specified "
    "format: an inner <function=...></function> block must be nested within <tool_call></tool_call> XML tags\n- DO NOT "
    "use function calls inside <think></think> tags.\n- The value enclosed between parameter tags is preserved exactly "
    "as-is, including newlines and spaces.\n</IMPORTANT>"
)
mimo_v2 = replace(
    tool_format,
    listing=_as_tags(
        "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
        "You have access to the following functions:\n\n",
        _MIMO,
        _SCALARS,
    ),
    content_join="",
    call_join="",
    argument="<parameter={{key}}>{{value}}</parameter>\n",
)
