# SPDX-License-Identifier: Apache-2.0
"""``Action`` and ``Action Input`` lines, for models that have no dialect of their own."""

from .json_format import JsonToolFormat

tool_format = JsonToolFormat(
    head="You can call these tools, each given as a JSON schema:\n",
    tool="{{function}}",
    join="\n",
    tail=(
        "\nTo call a tool, answer with two lines (and with two more for each further call):\n"
        "Action: the tool's name\nAction Input: its arguments as a JSON object"
    ),
    content_join="\n",
    call="Action: {{name}}\nAction Input: {{arguments}}",
    call_join="\n",
    start=r"^Action:[ \t]*(?P<name>[^\n]+?)[ \t]*\n+Action Input:\s*",
)
