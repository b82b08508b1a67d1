# SPDX-License-Identifier: Apache-2.0
"""DeepSeek V3 and R1: fenced JSON between the family's marks. The official texts list no tools; ours do."""

from dataclasses import replace

from .json_format import JsonToolFormat

tool_format = JsonToolFormat(
    head="## Tools\n\nYou have access to the following tools, each given as a JSON schema:\n",
    tool="{{function}}",
    join="\n",
    tail="",
    calls_open="<｜tool▁calls▁begin｜>",
    call="<｜tool▁call▁begin｜>function<｜tool▁sep｜>{{name}}\n```json\n{{arguments}}\n```<｜tool▁call▁end｜>",
    call_join="\n",
    calls_close="<｜tool▁calls▁end｜>",
    start=r"<｜tool▁call▁begin｜>function<｜tool▁sep｜>(?P<name>[^\n]+)\n```json\n",
)

# V3.1 writes the arguments bare.
v3_1 = replace(
    tool_format,
    call="<｜tool▁call▁begin｜>{{name}}<｜tool▁sep｜>{{arguments}}<｜tool▁call▁end｜>",
    call_join="",
    start=r"<｜tool▁call▁begin｜>(?P<name>[^\n<]+)<｜tool▁sep｜>",
)
