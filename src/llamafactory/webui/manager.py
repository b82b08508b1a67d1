# SPDX-License-Identifier: Apache-2.0
"""Every element of the page by its name, and back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gradio.blocks import Block


class Manager:
    """Names of the page's elements: ``TAB.NAME``, as fields and texts call them."""

    def __init__(self) -> None:
        self._elems: dict[str, Block] = {}
        self._ids: dict[Block, str] = {}

    def add_elems(self, tab: str, elems: Mapping[str, Block]) -> None:
        """Take the elements of a tab, by their names in it."""
        for name, elem in elems.items():
            self._elems[f"{tab}.{name}"] = elem
            self._ids[elem] = f"{tab}.{name}"

    def get_elem_list(self) -> list[Block]:
        """Every element that a handler may change."""
        return list(self._elems.values())

    def get_elem_by_id(self, elem_id: str) -> Block:
        """The element of a name ``TAB.NAME``."""
        return self._elems[elem_id]

    def get_id_by_elem(self, elem: Block) -> str:
        """The name ``TAB.NAME`` of an element."""
        return self._ids[elem]

    def named(self, tab: str) -> Iterator[tuple[str, Block]]:
        """Names (with the tab) and elements of one tab."""
        return ((name, elem) for name, elem in self._elems.items() if name.startswith(f"{tab}."))

    def elems(self, *tabs: str) -> Iterator[Block]:
        """The elements of some tabs."""
        return (elem for name, elem in self._elems.items() if name.partition(".")[0] in tabs)

    def has(self, elem_id: str) -> bool:
        """Whether the page has an element of this name; demo mode has fewer."""
        return elem_id in self._elems

    def get_fields(self, *tabs: str) -> set[Block]:
        """The elements of some tabs that hold a value of the user's: what a handler takes as its inputs."""
        from .fields.fields import COMMON

        return {elem for name, elem in self._elems.items() if name.partition(".")[0] in tabs and name in COMMON}

    def values(self, data: Mapping[Block, Any]) -> dict[str, Any]:
        """What a handler got, by name."""
        return {self._ids[elem]: value for elem, value in data.items()}

    def updates(self, changes: Mapping[str, Any]) -> dict[Block, Any]:
        """Changes by name, as changes by element; names that this page does not have are left out."""
        return {self._elems[name]: change for name, change in changes.items() if name in self._elems}

    def answer(self, changes: Mapping[str, Any]) -> Any:
        """What a handler gives back; gradio takes an empty dictionary for a value."""
        from gradio import skip

        return self.updates(changes) or skip()
