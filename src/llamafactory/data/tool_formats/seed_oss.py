# SPDX-License-Identifier: Apache-2.0
"""Seed-OSS: functions and parameters as tags. Tools are listed as JSON (officially as Python stubs)."""

from .json_format import JsonToolFormat

tool_format = JsonToolFormat(
    head=(
        "Tool List:\nYou are authorized to use the following tools (described in JSON Schema format). Before "
        "performing any task, you must decide how to call them based on the descriptions and parameters of these "
        "tools.\n["
    ),
    tool="{{tool}}",
    join=", ",
    tail=(
        "]\n工具调用请遵循如下格式:\n<seed:tool_call>\n<function=example_function_name>\n"
        "<parameter=example_parameter_1>value_1</parameter>\n<parameter=example_parameter_2>This is the value for the "
        "second parameter\nthat can span\nmultiple lines</parameter>\n</function>\n</seed:tool_call>\n"
    ),
    content_join="\n",
    call="\n<seed:tool_call>\n<function={{name}}>\n{{arguments}}</function>\n</seed:tool_call>",
    argument="<parameter={{key}}>{{value}}</parameter>\n",
    values="python",
    start=r"\n?<seed:tool_call>\n<function=(?P<name>[^>\n]+)>\n",
)
