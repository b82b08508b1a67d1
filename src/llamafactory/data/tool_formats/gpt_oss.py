# SPDX-License-Identifier: Apache-2.0
"""GPT-OSS: tools are listed as TypeScript, and each call goes to its tool in the commentary channel."""

from .json_format import JsonToolFormat

# The line break and the spaces before the type of a nested property are the family's.
_MACROS = """
{%- macro script_type(spec) -%}
{%- if spec.type == 'array' -%}
{%- if not spec['items'] -%}{{- 'any[]' -}}
{%- else -%}
{%- set inner = script_type(spec['items']) if spec['items'].type not in ['string', 'number', 'integer', 'boolean']
    else {'integer': 'number'}.get(spec['items'].type, spec['items'].type) -%}
{{- 'any[]' if inner == 'object | object' or inner | length > 50 else inner ~ '[]' -}}
{%- endif -%}
{{- ' | null' if spec.nullable else '' -}}
{%- elif spec.type is defined and spec.type is iterable and spec.type is not string -%}{{- spec.type | join(' | ') -}}
{%- elif spec.oneOf -%}
{%- if spec.oneOf | length > 1 and spec.oneOf | selectattr('type', 'equalto', 'object') | list -%}{{- 'any' -}}
{%- else -%}
{%- for one in spec.oneOf -%}
{{- script_type(one) ~ ('// ' ~ one.description if one.description else '') -}}
{{- ' // default: ' ~ (one.default | tojson) if one.default is defined else '' -}}
{{- '' if loop.last else ' | ' -}}
{%- endfor -%}
{%- endif -%}
{%- elif spec.type == 'string' -%}
{%- if spec.enum -%}{{- '"' ~ (spec.enum | join('" | "')) ~ '"' -}}
{%- else -%}{{- 'string' ~ (' | null' if spec.nullable else '') -}}
{%- endif -%}
{%- elif spec.type in ['number', 'integer'] -%}{{- 'number' -}}
{%- elif spec.type == 'boolean' -%}{{- 'boolean' -}}
{%- elif spec.type == 'object' -%}
{%- if spec['properties'] -%}
{{- '{\\n' -}}
{%- for key, value in spec['properties'].items() -%}
{{- key ~ ('' if key in (spec.required or []) else '?') ~ ': \\n                ' ~ script_type(value) -}}
{{- '' if loop.last else ', ' -}}
{%- endfor -%}
{{- '}' -}}
{%- else -%}{{- 'object' -}}
{%- endif -%}
{%- else -%}{{- 'any' -}}
{%- endif -%}
{%- endmacro -%}
"""
_TOOLS = """
{{- '# Tools\\n\\n## functions\\n\\nnamespace functions {\\n\\n' -}}
{%- for tool in tools -%}
{%- set function = tool.function if tool.function is defined else tool -%}
{{- '// ' ~ function.description ~ '\\ntype ' ~ function.name ~ ' = ' -}}
{%- if function.parameters and function.parameters['properties'] -%}
{{- '(_: {\\n' -}}
{%- for key, value in function.parameters['properties'].items() -%}
{{- '// ' ~ value.description ~ '\\n' if value.description else '' -}}
{{- key ~ ('' if key in (function.parameters.required or []) else '?') ~ ': ' ~ script_type(value) -}}
{%- if value.default is defined -%}
{{- ('// default: ' if value.oneOf and not value.enum else ', // default: ') -}}
{{- value.default if value.enum or value.oneOf else value.default | tojson -}}
{%- endif -%}
{{- ',\\n' -}}
{%- endfor -%}
{{- '}) => any;\\n\\n' -}}
{%- else -%}{{- '() => any;\\n\\n' -}}
{%- endif -%}
{%- endfor -%}
{{- '} // namespace functions' -}}
"""

tool_format = JsonToolFormat(
    listing=(_MACROS, _TOOLS),
    content_join="<|end|><|start|>assistant",
    call=" to=functions.{{name}}<|channel|>commentary json<|message|>{{arguments}}",
    call_join="<|call|><|start|>assistant",
    start=r" to=functions\.(?P<name>[^\s<]+)<\|channel\|>commentary json<\|message\|>",
)
