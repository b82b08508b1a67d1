# SPDX-License-Identifier: Apache-2.0
"""Qwen 3.5 and Qwen3-Coder: functions and parameters as tags, with the values on lines of their own."""

from .json_format import JsonToolFormat

tool_format = JsonToolFormat(
    head="# Tools\n\nYou have access to the following functions:\n\n<tools>\n",
    tool="{{tool}}",
    join="\n",
    tail=(
        "\n</tools>\n\nIf you choose to call a function ONLY reply in the following format with NO suffix:\n\n"
        "<tool_call>\n<function=example_function_name>\n<parameter=example_parameter_1>\nvalue_1\n</parameter>\n"
        "<parameter=example_parameter_2>\nThis is the value for the second parameter\nthat can span\nmultiple lines\n"
        "</parameter>\n</function>\n</tool_call>\n\n<IMPORTANT>\nReminder:\n- Function calls MUST follow the specified "
        "format: an inner <function=...></function> block must be nested within <tool_call></tool_call> XML tags\n"
        "- Required parameters MUST be specified\n- You may provide optional reasoning for your function call in "
        "natural language BEFORE the function call, but NOT after\n- If there is no function call available, answer "
        "the question like normal with your current knowledge and do not "
        "tell the user about function calls\n</IMPORTANT>"
    ),
    content_join="\n\n",
    call="<tool_call>\n<function={{name}}>\n{{arguments}}</function>\n</tool_call>",
    call_join="\n",
    argument="<parameter={{key}}>\n{{value}}\n</parameter>\n",
    values="python",
    start=r"<tool_call>\n<function=(?P<name>[^>\n]+)>\n",
)
