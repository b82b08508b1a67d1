# SPDX-License-Identifier: Apache-2.0
"""Gemma 4: tools are declared, and called, with strings between marks of their own."""

from .json_format import JsonToolFormat

# Keys come in alphabetical order, and only those that the family knows; types in capitals.
_MACROS = """
{%- macro marked(text) -%}{{- '<|"|>' ~ text ~ '<|"|>' -}}{%- endmacro -%}
{%- macro marked_list(items) -%}
{{- '[' -}}
{%- for item in items -%}{{- ('' if loop.first else ',') ~ marked(item) -}}{%- endfor -%}
{{- ']' -}}
{%- endmacro -%}
{%- macro marked_value(value) -%}
{%- if value is string -%}{{- marked(value) -}}
{%- elif value is mapping -%}
{{- '{' -}}
{%- for key, item in value | dictsort -%}
{{- ('' if loop.first else ',') ~ marked(key) ~ ':' ~ marked_value(item) -}}
{%- endfor -%}
{{- '}' -}}
{%- elif value is iterable -%}
{{- '[' -}}
{%- for item in value -%}{{- ('' if loop.first else ',') ~ marked_value(item) -}}{%- endfor -%}
{{- ']' -}}
{%- elif value is boolean or value is none -%}{{- value | tojson -}}
{%- else -%}{{- value -}}
{%- endif -%}
{%- endmacro -%}
{%- macro declared(properties, left_out) -%}
{%- set state = namespace(join='') -%}
{%- for key, value in properties | dictsort -%}
{%- if key not in left_out -%}
{{- state.join ~ key ~ ':{' ~ details(value) ~ 'type:' ~ marked(value['type'] | upper) ~ '}' -}}
{%- set state.join = ',' -%}
{%- endif -%}
{%- endfor -%}
{%- endmacro -%}
{%- macro details(value) -%}
{%- set type = value['type'] | upper -%}
{%- if value['description'] -%}{{- 'description:' ~ marked(value['description']) ~ ',' -}}{%- endif -%}
{%- if type == 'STRING' and value['enum'] -%}{{- 'enum:' ~ marked_value(value['enum']) ~ ',' -}}{%- endif -%}
{%- if type == 'ARRAY' and value['items'] is mapping and value['items'] -%}
{{- 'items:{' ~ element(value['items']) ~ '},' -}}
{%- endif -%}
{%- if value['nullable'] -%}{{- 'nullable:true,' -}}{%- endif -%}
{%- if type == 'OBJECT' -%}
{%- if value['properties'] is mapping -%}{{- 'properties:{' ~ declared(value['properties'], []) ~ '},' -}}
{%- else -%}
{{- 'properties:{' ~ declared(value, ['description', 'type', 'properties', 'required', 'nullable']) ~ '},' -}}
{%- endif -%}
{%- if value['required'] -%}{{- 'required:' ~ marked_list(value['required']) ~ ',' -}}{%- endif -%}
{%- endif -%}
{%- endmacro -%}
{%- macro element(items) -%}
{%- set state = namespace(join='') -%}
{%- for key, value in items | dictsort -%}
{%- if value is not none -%}
{{- state.join ~ key ~ ':' -}}
{%- set state.join = ',' -%}
{%- if key == 'properties' -%}{{- '{' ~ (declared(value, []) if value is mapping else '') ~ '}' -}}
{%- elif key == 'required' -%}{{- marked_list(value) -}}
{%- elif key == 'type' -%}{{- marked_value(value | upper if value is string else value | map('upper') | list) -}}
{%- else -%}{{- marked_value(value) -}}
{%- endif -%}
{%- endif -%}
{%- endfor -%}
{%- endmacro -%}
"""
_TOOLS = """
{%- for tool in tools -%}
{%- set function = tool.function if tool.function is defined else tool -%}
{{- '<|tool>declaration:' ~ function.name ~ '{description:' ~ marked(function.description) -}}
{%- if function.parameters -%}
{{- ',parameters:{' -}}
{%- if function.parameters['properties'] -%}
{{- 'properties:{' ~ declared(function.parameters['properties'], []) ~ '},' -}}
{%- endif -%}
{%- if function.parameters.required -%}
{{- 'required:' ~ marked_list(function.parameters.required) ~ ',' -}}
{%- endif -%}
{%- if function.parameters.type -%}{{- 'type:' ~ marked(function.parameters.type | upper) ~ '}' -}}{%- endif -%}
{%- endif -%}
{{- '}<tool|>' -}}
{%- endfor -%}
"""

tool_format = JsonToolFormat(
    listing=(_MACROS, _TOOLS),
    marks=("<|tool>", "<tool|>", '<|"|>'),
    call="<|tool_call>call:{{name}}{{{arguments}}}<tool_call|>",
    argument="{{key}}:{{value}}",
    argument_join=",",
    values="gemma",
    start=r"<\|tool_call>call:(?P<name>[^\s{]+)\{",
)
