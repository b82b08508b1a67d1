# SPDX-License-Identifier: Apache-2.0
"""Tool lists that a dialect writes by Jinja: the same program here and in the exported template."""

from __future__ import annotations

import json
import re
from functools import lru_cache

from ..template.jinja_sandbox import render

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
    for number, word in enumerate(marks):
        tools = tools.replace(json.dumps(word)[1:-1], chr(_HIDDEN + number))
    text, _ = render("".join(map(str.strip, listing)), [], tools=json.loads(tools))
    parts: list[str] = re.split(f"({'|'.join(map(re.escape, marks)) or '(?!)'})", text)
    shown = str.maketrans({_HIDDEN + number: word for number, word in enumerate(marks)})
    return tuple((part.translate(shown), number % 2 == 1) for number, part in enumerate(parts) if part)
