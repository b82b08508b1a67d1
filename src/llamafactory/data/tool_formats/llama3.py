# SPDX-License-Identifier: Apache-2.0
"""Bare JSON calls, as Llama 3.1 to 3.3 write them; several calls are one JSON list (the official text has one only)."""

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
