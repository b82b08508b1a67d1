# SPDX-License-Identifier: Apache-2.0
"""MiniMax: one JSON object a line (Text-01, M1), and parameters one by one between tags (M2)."""

from .json_format import JsonToolFormat

m1 = JsonToolFormat(
    head="You are provided with these tools:\n<tools>\n",
    tool="{{tool}}",
    join="\n",
    tail=(
        "\n</tools>\n\nIf you need to call tools, please respond with <tool_calls></tool_calls> XML tags, and provide "
        "tool-name and json-object of arguments, following the format below:\n<tool_calls>\n"
        '{"name": <tool-name-1>, "arguments": <args-json-object-1>}\n...\n</tool_calls>'
    ),
    content_join="\n",
    calls_open="<tool_calls>\n",
    call='{"name": "{{name}}", "arguments": {{arguments}}}',
    call_join="\n",
    calls_close="\n</tool_calls>",
    start=r'(?:(?<=<tool_calls>\n)|(?<=\}\n))(?=\{"name": )',
)

m2 = JsonToolFormat(
    head=(
        "# Tools\nYou may call one or more tools to assist with the user query.\n"
        "Here are the tools available in JSONSchema format:\n\n<tools>\n"
    ),
    tool="<tool>{{function}}</tool>\n",
    join="",
    tail=(
        "</tools>\n\nWhen making tool calls, use XML format to invoke tools and pass parameters:\n\n"
        '<minimax:tool_call>\n<invoke name="tool-name-1">\n<parameter name="param-key-1">param-value-1</parameter>\n'
        '<parameter name="param-key-2">param-value-2</parameter>\n...\n</invoke>\n</minimax:tool_call>'
    ),
    calls_open="\n<minimax:tool_call>\n",
    call='<invoke name="{{name}}">\n{{arguments}}</invoke>\n',
    calls_close="</minimax:tool_call>",
    argument='<parameter name="{{key}}">{{value}}</parameter>\n',
    start=r'<invoke name="(?P<name>[^"]+)">\n',
)
