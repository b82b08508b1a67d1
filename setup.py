# SPDX-License-Identifier: Apache-2.0
"""Console scripts only; everything else is declared in pyproject.toml."""

import os

from setuptools import setup


def get_console_scripts() -> list[str]:
    """Entry points of the command line; ``ENABLE_SHORT_CONSOLE=0`` at install leaves the short name `lmf` out."""
    scripts = ["llamafactory-cli = llamafactory.cli:main"]
    if os.environ.get("ENABLE_SHORT_CONSOLE", "1").lower() in ("1", "true", "y", "yes", "on"):
        scripts.append("lmf = llamafactory.cli:main")
    return scripts


setup(entry_points={"console_scripts": get_console_scripts()})
