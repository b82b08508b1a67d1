# SPDX-License-Identifier: Apache-2.0
"""Gemma 4: calls with strings between marks of their own. Tools are declared as JSON (officially in the same marks)."""

from .json_format import JsonToolFormat

tool_format = JsonToolFormat(
    head="",
    tool="<|tool>declaration:{{name}}{{function}}<tool|>",
    join="",
    tail="",
    call="<|tool_call>call:{{name}}{{{arguments}}}<tool_call|>",
    argument="{{key}}:{{value}}",
    argument_join=",",
    values="gemma",
    start=r"<\|tool_call>call:(?P<name>[^\s{]+)\{",
)
