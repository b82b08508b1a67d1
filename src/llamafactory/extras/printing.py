# SPDX-License-Identifier: Apache-2.0
"""Texts that somebody may look at through ``| head``."""

from __future__ import annotations

import os
import sys


def print_text(text: str) -> None:
    """Print a text that ends with a line break; a reader that has seen enough is no error."""
    try:
        print(text, end="", flush=True)
    except BrokenPipeError:  # Python must not write the rest at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
