# SPDX-License-Identifier: Apache-2.0
"""EXAONE 3.5: user turns end in a line break only."""

from ..template.chat_template import ChatTemplate

exaone = ChatTemplate(
    name="exaone",
    default_system="",
    system="[|system|]{{content}}[|endofturn|]\n",
    user="[|user|]{{content}}\n",
    generation="[|assistant|]",
    assistant="{{content}}[|endofturn|]",
    gap="\n",
    tool="[|tool|]{{content}}[|endofturn|]\n",
    eos="[|endofturn|]",
    stop=("[|endofturn|]",),
    special_tokens=("[|system|]", "[|user|]", "[|assistant|]", "[|endofturn|]"),
)
