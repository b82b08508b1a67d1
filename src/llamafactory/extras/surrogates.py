# SPDX-License-Identifier: Apache-2.0
"""Half characters: JSON can spell one without its other half (``\\ud83d``), but it is no text and cannot be encoded."""

from __future__ import annotations

import json
import re
from typing import Any

from .errors import ConfigError

NO_TEXT = "is half a character and no text; its other half was cut off"
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


def refuse_lone(text: str, value: Any, what: str) -> None:
    """Refuse JSON text inside other text, which whoever read the outer text could not look into.

    Raises:
        ConfigError: There is a half character in the value; the line begins with ``what``.
    """
    if half := lone_surrogate(text, value):
        raise ConfigError(f"{what}: {half} {NO_TEXT}")


def refuse_lone_in_text(text: str, what: str) -> None:
    """The same of a text itself."""
    if not text.isascii() and (found := _LONE.search(text)):
        raise ConfigError(f"{what}: \\u{ord(found.group()):04x} {NO_TEXT}")
