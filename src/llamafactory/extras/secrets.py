# SPDX-License-Identifier: Apache-2.0
"""Tokens, keys and passwords stay out of everything that is printed, logged or written."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

MASK = "***"
_NAMES = ("token", "api_key", "secret", "password", "webhook_url")
_SHORTEST = 6  # a shorter value may stand in any text by chance
# Addresses: user and password before the host, and the word that a signed one ends with.
_IN_ADDRESS = re.compile(
    r"""(://)[^/\s:@'"]*:[^/\s@'"]+(?=@)|([?&](?:[\w.-]*(?:token|signature)|sig)=)[^&\s'",]+""", re.I
)
_known: set[str] = set()


def is_secret(key: str) -> bool:
    """Whether a configuration key or an environment variable of this name holds a secret."""
    name = key.lower().lstrip("-")
    return name in _NAMES or name.endswith(tuple(f"_{ending}" for ending in _NAMES))


def remember(value: Any, key: str = "") -> None:
    """Take note of the secrets in a configuration, nested ones too, so that :func:`mask` finds them in any text."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            remember(item, str(name))
    elif is_secret(key) and isinstance(value, str) and len(value) >= _SHORTEST:
        _known.add(value)


def mask(text: str) -> str:
    """Return a text without the secrets of the configuration, of the environment and of addresses in it."""
    secrets = _known | {value for name, value in os.environ.items() if is_secret(name) and len(value) >= _SHORTEST}
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, MASK)
    return _IN_ADDRESS.sub(rf"\1\2{MASK}", text)


def mask_values(value: Any, key: str = "") -> Any:
    """Return a configuration with its secrets masked: what a secret key holds, and known secrets inside other texts."""
    if isinstance(value, Mapping):
        return {name: mask_values(item, str(name)) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(mask_values(item, key) for item in value)
    if value and is_secret(key):
        return MASK
    return mask(value) if isinstance(value, str) else value


def mask_words(words: Sequence[str]) -> list[str]:
    """Return command-line words with secrets masked: in ``key=value``, ``--key=value`` and ``--key value``."""
    masked: list[str] = []
    for number, word in enumerate(words):
        key, equals, value = word.partition("=")
        before = words[number - 1] if number else ""
        if equals and value and is_secret(key):
            masked.append(f"{key}={MASK}")
        elif before.startswith("--") and "=" not in before and is_secret(before):
            masked.append(MASK)
        else:
            masked.append(mask(word))
    return masked


def public_name(value: Any) -> str:
    """A value for others to read: of a place on this machine its last name."""
    text = str(value)
    is_here = isinstance(value, str) and (text.startswith(("/", "~", ".")) or "\\" in text or Path(text).exists())
    return Path(text.replace("\\", "/")).name if is_here else text
