# SPDX-License-Identifier: Apache-2.0
"""Seed-OSS: tools are listed as Python functions; calls are functions and parameters as tags."""

from .json_format import JsonToolFormat

_MACROS = """
{%- macro python_type(type) -%}
{{- {'string': 'str', 'number': 'int', 'integer': 'int', 'boolean': 'bool', 'array': 'list'}.get(type, 'Any') -}}
{%- endmacro -%}
"""
_TOOLS = '''
{%- for tool in tools -%}
{%- set function = tool.function if tool.function is defined else tool -%}
{%- set properties = function.parameters['properties'] or {} -%}
{{- '\\n\\nFunction:\\ndef ' ~ function.name ~ '(' -}}
{%- for key, value in properties.items() -%}
{{- key ~ ': ' ~ python_type(value.type) ~ ('' if loop.last else ',') -}}
{%- endfor -%}
{{- '):\\n    """\\n    ' ~ (function.description | trim) ~ '\\n\\n' -}}
{%- if properties -%}
{{- '    Args:' -}}
{%- for key, value in properties.items() -%}
{{- '\\n    - ' ~ key ~ ' (' ~ python_type(value.type) ~ ')' -}}
{{- (' [必填]' if key in (function.parameters.required or []) else ' [选填]') ~ ': ' ~ (value.description or '') -}}
{%- endfor -%}
{%- endif -%}
{{- '\\n\\n    """' -}}
{%- endfor -%}
{{- '\\n工具调用请遵循如下格式:\\n<seed:tool_call>\\n<function=example_function_name>\\n' -}}
{{- '<parameter=example_parameter_1>value_1</parameter>\\n<parameter=example_parameter_2>This is the value for the ' -}}
{{- 'second parameter\\nthat can span\\nmultiple lines</parameter>\\n</function>\\n</seed:tool_call>\\n' -}}
'''

tool_format = JsonToolFormat(
    listing=(_MACROS, _TOOLS),
    content_join="\n\n",
    call_join="\n",
    call="<seed:tool_call>\n<function={{name}}>\n{{arguments}}</function>\n</seed:tool_call>",
    argument="<parameter={{key}}>{{value}}</parameter>\n",
    values="python",
    start=r"<seed:tool_call>\n<function=(?P<name>[^>\n]+)>\n",
)
