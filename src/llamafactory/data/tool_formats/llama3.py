# SPDX-License-Identifier: Apache-2.0
"""Bare JSON calls, as Llama 3.1 to 3.3 write them; several calls are one JSON list (the official text has one only)."""

from dataclasses import replace

from .json_format import JsonToolFormat

tool_format = JsonToolFormat(
    head=(
        "Given the following functions, please respond with a JSON for a function call with its proper arguments that "
        'best answers the given prompt.\n\nRespond in the format {"name": function name, "parameters": dictionary of '
        "argument name and its value}.Do not use variables.\n\n"
    ),
    tool="{{tool}}",
    indent=4,
    join="\n\n",
    tail="\n\n",
    content_join="\n",
    call='{"name": "{{name}}", "parameters": {{arguments}}}',
    call_join=", ",
    several=("[", "]"),
    start=r'^(?:<\|python_tag\|>)?(?=\[?\s*\{\s*"name"\s*:)',
)

# Officially, what the assistant says beside its calls stands between the two marks; ours puts it before them.
llama4 = replace(
    tool_format,
    calls_open="<|python_start|><|python_end|>",
    call_join="",
    several=("", ""),
    start=r'(?:<\|python_start\|><\|python_end\|>|(?<=\})|^)(?=\{"name": )',
)
