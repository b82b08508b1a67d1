# SPDX-License-Identifier: Apache-2.0
"""From the fields of the page to a configuration, and to the command and the file that anybody can run without it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def command_of(tab: str, values: Mapping[str, Any]) -> str:
    """The command that a tab runs: train, eval, infer or export."""
    raise NotImplementedError(tab, values)


def build(tab: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the flat keys of a tab's command; what is left at its default is left out.

    Args:
        tab: ``train``, ``eval``, ``infer`` (chat) or ``export``.
        values: Field id to value, of the top bar and of the tab.

    Raises:
        ConfigError: A value cannot be read.
    """
    raise NotImplementedError(tab, values)


def to_yaml(config: Mapping[str, Any]) -> str:
    """The configuration as a YAML file, keys in groups as in the examples."""
    raise NotImplementedError(config)


def to_command(command: str, config: str | Path | Mapping[str, Any]) -> str:
    """The command line for a file, or for keys; quoted, so that pasting it runs nothing else."""
    raise NotImplementedError(command, config)


def check(command: str, config: Mapping[str, Any]) -> list[tuple[str | None, str]]:
    """What is wrong with a configuration: key (``None`` = no single one) and message; nothing = it can be run."""
    raise NotImplementedError(command, config)


def list_presets() -> list[str]:
    """Names of the saved configurations, the newest first."""
    raise NotImplementedError


def save_preset(name: str, values: Mapping[str, Any]) -> Path:
    """Save field id to value under a name; an existing one is replaced whole."""
    raise NotImplementedError(name, values)


def load_preset(name: str) -> dict[str, Any]:
    """Field id to value, as they were saved."""
    raise NotImplementedError(name)


def example_files() -> list[str]:
    """The example files that come with a checkout, relative to it; none where there is no checkout."""
    raise NotImplementedError


def load_example(path: str) -> tuple[str, dict[str, Any]]:
    """Text of one example file, and the values of the fields that show it."""
    raise NotImplementedError(path)
