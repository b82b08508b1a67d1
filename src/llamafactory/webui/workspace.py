# SPDX-License-Identifier: Apache-2.0
"""The workspace: the folder where the page was started. Nothing outside it is written or shown."""

from __future__ import annotations

import os
from pathlib import Path

from ..extras.errors import ConfigError, short
from ..extras.surrogates import NO_TEXT
from ..jobs.job import CACHE as CACHE  # settings of the user, the job store, a folder for each job

CONFIGS = "llamaboard_config"  # saved configurations
SAVES = "saves"  # what runs write
_LONGEST = 1024
_LONGEST_PART = 255  # bytes of one name, on the file systems there are


def workspace() -> Path:
    """The folder that the page was started in."""
    try:
        return Path.cwd()
    except FileNotFoundError:
        raise ConfigError(
            "the folder that the page was started in has been removed; start the page in another"
        ) from None


def inside(path: str | os.PathLike[str], key: str = "path") -> Path:
    """Return a path of the workspace as an absolute one, with every link followed.

    Args:
        path: Relative to the workspace, or absolute.
        key: The field that it was written in, for the message.

    Raises:
        ConfigError: It leads out of the workspace, holds a character that no honest name has, or is too long.
    """
    text = os.fspath(path)
    _check_text(text, key)
    root = workspace().resolve()
    if any(len(part.encode()) > _LONGEST_PART for part in Path(text).parts):
        raise ConfigError(f"{key}: {short(text)}: a name in a path has at most {_LONGEST_PART} bytes")
    try:
        real = Path(root, Path(text).expanduser()).resolve()  # as the commands read it
    except (OSError, RuntimeError) as error:  # a name that is too long, a circle of links
        raise ConfigError(f"{key}: {short(text)} is no path ({error})") from None
    if real != root and root not in real.parents:
        raise ConfigError(f"{key}: {short(text)} lies outside of the workspace {root}; name a place in it")
    return real


def relative(path: str | os.PathLike[str]) -> str:
    """Return a path of the workspace as the user writes it, relative to the workspace.

    Raises:
        ConfigError: It lies outside.
    """
    return str(inside(path).relative_to(workspace().resolve()))


def check_name(name: str, key: str = "name") -> str:
    """Return a name that a file of the workspace may have.

    Raises:
        ConfigError: It is empty, hidden, a path, or holds characters that shells or file systems take otherwise.
    """
    _check_text(name, key)
    kept = name.strip()
    if not kept or kept.startswith((".", "-")) or not all(sign.isalnum() or sign in "-_. +" for sign in kept):
        raise ConfigError(f"{key}: {short(name)} is no name; use letters, digits, spaces and - _ . +")
    if len(kept.encode()) > 200:
        raise ConfigError(f"{key}: a name has at most 200 bytes, got {len(kept.encode())}")
    return kept


def _check_text(text: str, key: str) -> None:
    if len(text) > _LONGEST:
        raise ConfigError(f"{key}: a path has at most {_LONGEST} characters, got {len(text)}")
    if any(ord(sign) < 32 or ord(sign) == 127 for sign in text):
        raise ConfigError(f"{key}: {short(text)} holds a control character (a line break, a NUL)")
    if not is_text(text):
        raise ConfigError(f"{key}: {short(text)} {NO_TEXT}")


def is_text(name: str) -> bool:
    """Whether a name can be shown and asked for again: a file's may hold bytes that are no text."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return not any(ord(sign) < 32 or ord(sign) == 127 for sign in name)
