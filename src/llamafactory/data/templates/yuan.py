# SPDX-License-Identifier: Apache-2.0
"""Yuan 2: turns are parted by ``<n>``, and ``<sep>`` opens an answer."""

from ..template.chat_template import ChatTemplate

yuan = ChatTemplate(
    name="yuan",
    system="{{content}}\n",
    user="{{content}}",
    generation="<sep>",
    assistant="{{content}}<eod>",
    gap="<n>",
    strip=("system", "user", "assistant"),
    tool="{{content}}",
    stop=("<eod>",),
    special_tokens=("<sep>", "<eod>", "<n>"),
)
