# SPDX-License-Identifier: Apache-2.0
"""Settings that come from environment variables, and what servers must know about addresses."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping

from .errors import ConfigError

MOST_PROCESSES = 1_000_000
MOST_PORT = 65_535
_TRUE, _FALSE = ("1", "true", "yes", "y", "on"), ("0", "false", "no", "n", "off", "")


def is_env_enabled(name: str, default: str = "0", variables: Mapping[str, str] | None = None) -> bool:
    """Whether an environment variable is switched on; the one reading of such switches.

    Args:
        name: The variable.
        default: Its text when it is not set; an empty text is off.
        variables: Where to look instead of this process's environment.

    Raises:
        ConfigError: It says neither yes nor no.
    """
    text = (os.environ if variables is None else variables).get(name, default).strip().lower()
    if text not in _TRUE + _FALSE:
        raise ConfigError(f"{name}: expected 1 or 0, got {text!r}")
    return text in _TRUE


def rank_number(name: str, default: int = 0) -> int:
    """Read what a launcher tells its processes of their place: RANK, LOCAL_RANK, WORLD_SIZE and the like.

    Raises:
        ConfigError: It is no whole number.
    """
    return Environment(os.environ).number(name, default, 0, MOST_PROCESSES)


class Environment:
    """Reads variables; an empty one counts as not set."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        self._variables = variables

    def text(self, name: str, default: str = "") -> str:
        """A text."""
        return self._variables.get(name) or default

    def number(self, name: str, default: int, least: int, most: int) -> int:
        """A whole number.

        Raises:
            ConfigError: It is none, or not from ``least`` to ``most``.
        """
        text = self._variables.get(name) or str(default)
        if not (text.isascii() and text.isdecimal()) or not least <= int(text) <= most:
            raise ConfigError(f"{name}: expected a whole number from {least} to {most}, got {text!r}")
        return int(text)

    def switch(self, name: str, default: bool) -> bool:
        """Yes or no.

        Raises:
            ConfigError: It is neither.
        """
        return is_env_enabled(name, str(int(default)), self._variables)


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine only."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def host_name(header: str) -> str:
    """The name in a Host header, without its port."""
    if header.startswith("["):
        return header.partition("]")[0].removeprefix("[").lower()
    return header.partition(":")[0].lower()
