# SPDX-License-Identifier: Apache-2.0
"""Optional packages: which are there, in which version, and one clear line when one is missing."""

from __future__ import annotations

import importlib
import sys
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed
from importlib.util import find_spec
from types import ModuleType

from .errors import ConfigError


def require(package: str, key: str, pip: str | None = None) -> ModuleType:
    """Import an optional package on behalf of the key that needs it.

    Args:
        package: Module to import, such as ``"swanlab"``.
        key: The configuration key (or key and value) that asks for it.
        pip: What to install, when it is not called as the module is.

    Raises:
        ConfigError: The package is not installed.
    """
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package.partition(".")[0]:
            raise  # the package is there, but one it depends on is not
        raise ConfigError(_missing(package, key, pip)) from None


def require_installed(package: str, key: str, pip: str | None = None) -> None:
    """Look for an optional package without importing it, where the import would be heavy.

    Args:
        package: Module to look for, such as ``"bitsandbytes"``.
        key: The configuration key (or key and value) that asks for it.
        pip: What to install, when it is not called as the module is.

    Raises:
        ConfigError: The package is not installed.
    """
    if package not in sys.modules and find_spec(package) is None:
        raise ConfigError(_missing(package, key, pip))


def _missing(package: str, key: str, pip: str | None) -> str:
    return f"{key}: needs the package {package}; pip install {pip or package}"


def version_of(package: str) -> str | None:
    """Return the installed version of a distribution without importing it, or None."""
    try:
        return installed(package)
    except PackageNotFoundError:
        return None
