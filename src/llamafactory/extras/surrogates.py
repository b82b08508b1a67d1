# SPDX-License-Identifier: Apache-2.0
"""Half characters: JSON can spell one without its other half (``\\ud83d``), but it is no text and cannot be encoded."""

from __future__ import annotations

import json
import re
from typing import Any

_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")
_LONE = re.compile("[\ud800-\udfff]")


def lone_surrogate(text: str, value: Any) -> str | None:
    """Return the first half character of a JSON value as JSON spells it, None if there is none.

    Args:
        text: What the value was read from; most hold no such escape, and then nothing else is looked at.
        value: What ``json.loads`` made of it: whole pairs are one character there.
    """
    if not _ESCAPE.search(text):
        return None
    found = _LONE.search(json.dumps(value, ensure_ascii=False))
    return f"\\u{ord(found.group()):04x}" if found else None
