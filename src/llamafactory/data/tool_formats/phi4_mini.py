# SPDX-License-Identifier: Apache-2.0
"""Phi-4-mini: a JSON list of functions between tool marks; calls as ``functools[...]``."""

from .json_format import JsonToolFormat

tool_format = JsonToolFormat(
    head="<|tool|>[",
    tool="{{function}}",
    join=", ",
    tail="]<|/tool|>",
    calls_open="functools[",
    call='{"name": "{{name}}", "arguments": {{arguments}}}',
    call_join=", ",
    calls_close="]",
    start=r"functools\s*(?=\[)",
)
