# SPDX-License-Identifier: Apache-2.0
"""The fields of the page, as a table: those in front, and every other key made of the typed arguments themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Widget = Literal["text", "number", "slider", "choice", "multi", "switch", "json", "path"]


@dataclass(frozen=True)
class Field:
    """One field.

    Attributes:
        id: ``TAB.NAME``, as the page's elements are called.
        key: The configuration key it writes; ``None`` = it writes several, or none.
        widget: How it is shown.
        default: What it shows at first; ``None`` = nothing, and then the run chooses.
        choices: Values of ``choice`` and ``multi``.
        low: Least number.
        high: Largest number.
        step: Distance of numbers.
        tab: ``top``, ``train``, ``eval``, ``infer`` or ``export``.
        group: Of the tab: ``data``, ``basic`` … for the fields in front, the section's name for the others.
        help: The key's meaning in English; the page's texts have it in other languages for the fields in front.
        free: A ``choice`` also takes what is typed.
    """

    id: str
    key: str | None
    widget: Widget
    default: Any = None
    choices: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None
    step: float | None = None
    tab: str = ""
    group: str = ""
    help: str = ""
    free: bool = False

    @property
    def name(self) -> str:
        """The id without its tab."""
        return self.id.partition(".")[2]


COMMON: dict[str, Field] = {}  # the fields in front by id, in the order of the page
NOT_ON_PAGE: dict[str, str] = {}  # key -> why the page has no field for it


def fields_of(tab: str, group: str | None = None) -> list[Field]:
    """The fields in front of one tab (of one group of it), in the order of the page."""
    return [field for field in COMMON.values() if field.tab == tab and group in (None, field.group)]


def all_groups(tab: str) -> dict[str, list[Field]]:
    """The keys that a tab's command reads and no field in front writes, by section."""
    raise NotImplementedError(tab)


def reason_off(field: Field, values: Mapping[str, Any]) -> str | None:
    """Why a field has no effect with the stage, tuner, quantizer and optimizer chosen; ``None`` = it has.

    Args:
        field: One of the page.
        values: Field id to value.
    """
    raise NotImplementedError(field, values)


def search(words: str, language: str = "en", most: int = 20) -> list[Field]:
    """The fields whose key, label or meaning fits the words best, the best first."""
    raise NotImplementedError(words, language, most)
