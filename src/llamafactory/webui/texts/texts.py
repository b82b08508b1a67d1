# SPDX-License-Identifier: Apache-2.0
"""What the page says, in the languages of its users. The texts are data: two YAML files a language.

``en.yaml`` has the elements and alerts of the page, ``en_fields.yaml`` the fields in front; the help of the other keys
stays English, since it is that of the typed arguments. A name without a tab (``dataset``) is that of the element on
every tab that has no text of its own (``eval.dataset``).
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import yaml

LANGUAGES = ("en", "ru", "zh", "ko", "ja")
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the fast one, where it was compiled


def text(language: str, name: str, part: str = "label") -> str:
    """Return one text of the page.

    Args:
        language: One of :data:`LANGUAGES`; any other is taken as English.
        name: Of the element (``train.start_btn``), or of an alert (``alert.conflict``).
        part: ``label``, ``info``, ``value``, ``placeholder`` …

    Returns:
        The text; English where the language has none; nothing where English has none either.
    """
    for one in (language, "en"):
        entry = _entry(one, name)
        if part in entry:
            return str(entry[part])
    return ""


def parts(language: str, name: str) -> dict[str, Any]:
    """Return every text of one element, as the arguments of its component; English where the language has none.

    Choices that have names are pairs of name and value.
    """
    found = {**_entry("en", name), **_entry(language, name)}
    if "choices" in found:
        named = {**_entry("en", name)["choices"], **_entry(language, name).get("choices", {})}
        found["choices"] = [(label, value) for value, label in named.items()]
    return found


def missing(language: str) -> list[str]:
    """Return ``name.part`` of every English text that a language does not have."""
    return sorted(_all(language="en").keys() - _all(language).keys())


def unlike(language: str) -> list[str]:
    """Return ``name.part`` of every text whose placeholders are not those of the English one."""
    english, other = _all("en"), _all(language)
    return sorted(name for name in english.keys() & other.keys() if _holes(english[name]) != _holes(other[name]))


def _holes(text: str) -> list[str]:
    return sorted(re.findall(r"\{[^{}]*\}", text))


def _entry(language: str, name: str) -> dict[str, Any]:
    texts = _texts(language)
    entry = texts.get(name, texts.get(name.partition(".")[2]))
    return {"label": entry} if isinstance(entry, str) else entry or {}


@cache
def _all(language: str) -> dict[str, str]:
    """Every text of a language by ``name.part``."""
    found: dict[str, str] = {}
    for name in _texts(language):
        for part, value in _entry(language, name).items():
            inner = value.items() if isinstance(value, dict) else [("", value)]
            found |= {f"{name}.{part}.{key}".rstrip("."): str(one) for key, one in inner}
    return found


@cache
def _texts(language: str) -> dict[str, Any]:
    if language not in LANGUAGES:
        return {}
    folder = Path(__file__).parent
    found: dict[str, Any] = {}
    for file in (folder / f"{language}.yaml", folder / f"{language}_fields.yaml"):
        if file.exists():
            found |= _LOADER(file.read_text("utf-8")).get_single_data() or {}
    return found
