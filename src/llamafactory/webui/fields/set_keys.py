# SPDX-License-Identifier: Apache-2.0
"""The keys that a page sets beside the fields in front."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..drawing.reports import text as html_text
from .fields import Field, fields_on


def set_key(kept: Mapping[str, Any], field: Field, value: Any) -> dict[str, Any]:
    """What was set, with one more key; one that is at its default again is not among them."""
    left = {name: old for name, old in kept.items() if name != field.id}
    empty = value in (None, "", []) and field.default in (None, "", [])
    return left if empty or value == field.default else {**left, field.id: value}


def show_set(kept: Mapping[str, Any], tab: str) -> str:
    """The keys that were set, with their values."""
    named = {fields_on(tab)[name].key: value for name, value in kept.items() if name in fields_on(tab)}
    chips = "".join(f"<code>{html_text(f'{key}: {value}'[:200])}</code> " for key, value in named.items())
    return f'<p class="chips">{chips}</p>' if chips else ""
