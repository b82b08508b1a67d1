# SPDX-License-Identifier: Apache-2.0
"""What the page says, in the languages of its users. The texts are data: one YAML file a language."""

from __future__ import annotations

from functools import cache
from pathlib import Path

LANGUAGES = ("en", "ru", "zh", "ko", "ja")


def text(language: str, name: str, part: str = "label") -> str:
    """Return one text of the page.

    Args:
        language: One of :data:`LANGUAGES`; any other is taken as English.
        name: Of the element (``train.start_btn``), or of an alert (``alert.conflict``).
        part: ``label``, ``info``, ``value``, ``placeholder`` …

    Returns:
        The text; English where the language has none; nothing where English has none either.
    """
    for found in (_texts(language), _texts("en")):
        entry = found.get(name)
        if isinstance(entry, str) and part == "label":
            return entry
        if isinstance(entry, dict) and part in entry:
            return str(entry[part])
    return ""


def parts(language: str, name: str) -> dict[str, str]:
    """Return every text of one element, as the arguments of its component; English where the language has none."""
    found: dict[str, str] = {}
    for texts in (_texts("en"), _texts(language)):
        entry = texts.get(name)
        if entry is not None:
            found |= {"label": entry} if isinstance(entry, str) else entry
    return found


def missing(language: str) -> list[str]:
    """Return ``name.part`` of every English text that a language does not have."""
    return sorted(_parts("en") - _parts(language))


def _parts(language: str) -> set[str]:
    found = set()
    for name, entry in _texts(language).items():
        found |= {f"{name}.{part}" for part in entry} if isinstance(entry, dict) else {f"{name}.label"}
    return found


@cache
def _texts(language: str) -> dict[str, str | dict[str, str]]:
    import yaml

    if language not in LANGUAGES:
        return {}
    path = Path(__file__).with_name(f"{language}.yaml")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return yaml.load(path.read_text("utf-8"), Loader=loader) or {}
