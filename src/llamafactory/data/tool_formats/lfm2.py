# SPDX-License-Identifier: Apache-2.0
"""LFM2: calls as Python writes them, in a list."""

from dataclasses import replace

from .json_format import JsonToolFormat

tool_format = JsonToolFormat(
    head="List of tools: <|tool_list_start|>[",
    tool="{{tool}}",
    join=", ",
    tail="]<|tool_list_end|>",
    calls_open="<|tool_call_start|>[",
    call="{{name}}({{arguments}})",
    call_join=", ",
    calls_close="]<|tool_call_end|>",
    argument="{{key}}={{value}}",
    argument_join=", ",
    values="quoted",
    start=r"(?:(?<=<\|tool_call_start\|>\[)|(?<=\), ))(?P<name>[^\s()=,'\"]+)\(",
)

# 2.5 has no marks around the tools.
lfm2_5 = replace(tool_format, head="List of tools: [", tail="]")
