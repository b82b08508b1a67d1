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


def own_flags(own: Mapping[str, Any], needed: tuple[str, ...] = ()) -> dict[str, Any]:
    """As :func:`read_flags`, of a script that takes no keys of a configuration.

    Raises:
        UsageError: A needed flag is missing, or one is unknown.
    """
    flags, keys = read_flags({**dict.fromkeys(needed, ""), **own}, {}, needed)
    if keys:
        raise UsageError(f"--{next(iter(keys))}: this script takes {', '.join(f'--{name}' for name in flags)}")
    return flags


def refuse_pickles(save_safetensors: bool) -> None:
    """Of scripts that once chose between two formats.

    Raises:
        UsageError: The other one is asked for.
    """
    if not save_safetensors:
        raise UsageError("--save_safetensors: false would write pickles, which are not written any more; leave it out")


def speed_keys(
    deepspeed_stage: int = 0, disable_gc: bool = False, liger_kernel: bool = False, unsloth_gc: bool = False
) -> dict[str, Any]:
    """Keys of a configuration for flags of scripts that measure speed; what is off is left to its default."""
    keys: dict[str, Any] = {"disable_gradient_checkpointing": True} if disable_gc else {}
    keys |= {"enable_liger_kernel": True} if liger_kernel else {}
    keys |= {"use_unsloth_gc": True} if unsloth_gc else {}
    return keys | ({"deepspeed": {"zero_optimization": {"stage": deepspeed_stage}}} if deepspeed_stage else {})


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
