# SPDX-License-Identifier: Apache-2.0
"""Errors that are the user's to mend: shown as one line, without a traceback."""

from __future__ import annotations


class ConfigError(ValueError):
    """Bad input (a key, a file, a row). The message is one line: what, where, the value, the choices."""

    exit_code = 1


class UsageError(ConfigError):
    """The command itself cannot be taken: unknown command, or a part that is not built yet."""

    exit_code = 2


class ModelFault(ConfigError):
    """The model computes no numbers for what was asked; no request is to blame."""


def first_line(error: BaseException) -> str:
    """The first line of what another library says, for an error of ours; the error's name when it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
