# SPDX-License-Identifier: Apache-2.0
"""Mistral's dialects: a JSON list of calls (v0.3, Nemo, Ministral), and name and arguments apart (Small 3.2)."""

from dataclasses import replace

from .json_format import JsonToolFormat

v3 = JsonToolFormat(
    head="[AVAILABLE_TOOLS] [",
    tool="{{tool}}",
    join=", ",
    tail="][/AVAILABLE_TOOLS]",
    calls_open="[TOOL_CALLS] [",
    call='{"name": "{{name}}", "arguments": {{arguments}}, "id": "{{id}}"}',
    call_join=", ",
    calls_close="]",
    # The mark is a special token, so it is missing where a response was decoded without those.
    start=r'(?:\[TOOL_CALLS\]\s*)?(?=\[\s*\{\s*"name"\s*:)',
)

tekken = replace(v3, head="[AVAILABLE_TOOLS][", calls_open="[TOOL_CALLS][")

small = replace(
    tekken,
    calls_open="",
    call="[TOOL_CALLS]{{name}}[CALL_ID]{{id}}[ARGS]{{arguments}}",
    call_join="",
    calls_close="",
    start=r"\[TOOL_CALLS\](?P<name>[^\[\n]+)(?:\[CALL_ID\](?P<id>\w+))?\[ARGS\]",
)

ministral3 = replace(
    small,
    head="[AVAILABLE_TOOLS][",
    call="[TOOL_CALLS]{{name}}[ARGS]{{arguments}}",
    start=r"\[TOOL_CALLS\](?P<name>[^\[\n]+)\[ARGS\]",
)
