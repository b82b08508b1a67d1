# SPDX-License-Identifier: Apache-2.0
"""Tool lists that a dialect writes by Jinja: the same program here and in the exported template."""

from __future__ import annotations

import json
import re
from functools import lru_cache

_HIDDEN = 0xE000  # code points for private use


@lru_cache(maxsize=1024)
def write_listing(listing: tuple[str, str], marks: tuple[str, ...], tools: str) -> tuple[tuple[str, bool], ...]:
    """Write a tool list.

    Args:
        listing: Jinja macros, and the Jinja that writes ``tools``.
        marks: Special tokens that it writes.
        tools: OpenAI tool objects, as JSON.

    Returns:
        Stretches of text, and whether each is such a mark. One that stands in the tools' own texts is not.
    """
    from transformers.utils.chat_template_utils import render_jinja_template

    for number, word in enumerate(marks):
        tools = tools.replace(json.dumps(word)[1:-1], chr(_HIDDEN + number))
    texts, _ = render_jinja_template([[]], tools=json.loads(tools), chat_template="".join(map(str.strip, listing)))
    parts: list[str] = re.split(f"({'|'.join(map(re.escape, marks)) or '(?!)'})", texts[0])
    shown = str.maketrans({_HIDDEN + number: word for number, word in enumerate(marks)})
    return tuple((part.translate(shown), number % 2 == 1) for number, part in enumerate(parts) if part)
