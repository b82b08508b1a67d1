# SPDX-License-Identifier: Apache-2.0
"""The words behind a script: flags of its own, and keys of a configuration."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

from ...extras.errors import ConfigError, UsageError, shown
from ...hparams.coercion import coerce
from ...hparams.reader import read_source


def read_flags(
    own: Mapping[str, Any], keys: Mapping[str, Any], needed: tuple[str, ...] = ()
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read this process's words: ``[CONFIG.yaml] --flag value ...``; the first words may stand for ``needed``.

    Args:
        own: Flags of the script -> default, whose type a value takes.
        keys: Keys of a configuration -> what the script means by silence.
        needed: Flags or keys without which it cannot work, in the order of words without a name.

    Returns:
        The script's flags, and the keys.

    Raises:
        UsageError: A needed one is missing.
    """
    words = list(sys.argv[1:])
    bare: list[str] = []
    while words and len(bare) < len(needed) and not words[0].startswith("--") and "=" not in words[0]:
        if words[0].endswith((".yaml", ".yml")):
            break
        bare.append(words.pop(0))
    given = {**dict(zip(needed, bare, strict=False)), **(read_source(words).values if words else {})}
    for name in needed:
        if given.get(name) is None:
            raise UsageError(f"--{name} is needed; this script takes {', '.join(f'--{key}' for key in [*own, *keys])}")
    flags = {
        name: given.pop(name) if default is None else coerce(name, given.pop(name), type(default))
        for name, default in own.items()
        if name in given
    }
    return {**own, **flags}, {**keys, **given}


def run_script(main: Callable[[], None]) -> None:
    """Run a script; what its user can mend is one line."""
    if any(word in ("-h", "--help") for word in sys.argv[1:]):
        print((sys.modules["__main__"].__doc__ or "").strip())
        return
    try:
        main()
    except ConfigError as error:
        line, code = shown(error) or (str(error), 1)
        print(line, file=sys.stderr)
        sys.exit(code)
