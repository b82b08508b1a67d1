# SPDX-License-Identifier: Apache-2.0
"""The one way a configuration key is declared: default, meaning, range and choices in one line."""

from __future__ import annotations

from dataclasses import field
from typing import Any

from ..extras.errors import ConfigError
from .ranges import ANY, Range


def arg(default: Any, help: str, *, comma: bool = False, within: Range = ANY) -> Any:
    """Declare one flat configuration key of a frozen dataclass section.

    Args:
        default: Value when the user does not give the key; a list is copied for each section that is built.
        help: One line of meaning, shown by ``train -h``.
        comma: The key is a comma list kept as one string; a YAML list is accepted and joined.
        within: The numbers that the key takes.

    Returns:
        A dataclass field that carries the help text in its metadata.
    """
    metadata = {"help": help, "comma": comma, "within": within}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def split_list(text: str | None) -> list[str]:
    """Split a comma list: ``"a, b"`` gives ``["a", "b"]``, ``None`` and ``""`` give ``[]``."""
    return [part.strip() for part in text.split(",") if part.strip()] if text else []


def require(condition: bool, message: str) -> None:
    """Raise a one-line :class:`ConfigError` unless ``condition`` holds: how a rule between keys is written."""
    if not condition:
        raise ConfigError(message)
