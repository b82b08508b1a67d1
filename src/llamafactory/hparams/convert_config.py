# SPDX-License-Identifier: Apache-2.0
"""``convert-config``: a configuration of another program in the keys of this one, as a file to keep."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import yaml

from ..extras.errors import ConfigError, UsageError
from ..extras.printing import print_text
from .dialects import DIALECTS, Translation, recognize, translate
from .reader import read_source
from .schema import known_keys

HELP = f"""llamafactory-cli convert-config FILE.yaml [--from {"|".join(DIALECTS)}] [key=value ...]

Prints a configuration of axolotl, ms-swift or LLaMA-Factory's v1 engine in the keys of this program, ready for a file:
    llamafactory-cli convert-config axolotl.yaml > mine.yaml
    llamafactory-cli train mine.yaml
What the other program does where its file says nothing is written out. Keys without a counterpart stand as comments at
the end, and are counted on stderr.
"""


def run_convert_config(words: Sequence[str] | None = None) -> None:
    """Print the translation of a file.

    Args:
        words: Of the command line; None = this process's.

    Raises:
        UsageError: There is no file, or nobody knows whose it is.
        ConfigError: The file cannot be read.
    """
    given = list(sys.argv[2:] if words is None else words)
    name = _take_option(given)
    flat = read_source(given)
    name = name or recognize(flat.values)
    if name is None:
        raise UsageError(f"no key of {', '.join(known.title for known in DIALECTS.values())} found; say --from NAME")
    found = translate(flat.values, name, known_keys().__contains__)
    print_text(as_yaml(found, name, given[0] if given else ""))
    if found.absent:
        print(f"{len(found.absent)} without a counterpart: {', '.join(found.absent)}", file=sys.stderr)
    fault = fault_of(found.values)
    if fault:
        print(f"train would say: {fault}", file=sys.stderr)


def _take_option(words: list[str]) -> str | None:
    for position, word in enumerate(words):
        if word == "--from" or word.startswith("--from="):
            value = word[7:] if "=" in word else "".join(words[position + 1 : position + 2])
            del words[position : position + (1 if "=" in word else 2)]
            if value not in DIALECTS:
                raise UsageError(f"--from: expected one of {', '.join(DIALECTS)}, got {value!r}")
            return value
    return None


def fault_of(values: dict[str, Any]) -> str | None:
    """Return what a run would refuse in these keys, or None."""
    from .parser import get_train_args

    try:
        get_train_args(values)
    except ConfigError as error:
        return str(error)
    return None


def as_yaml(found: Translation, name: str, source: str) -> str:
    """Return a translation as the text of a YAML file."""
    said = {key: value for key, value in found.values.items() if key not in found.silent}
    lines = [f"# {source or 'keys'} of {DIALECTS[name].title}, by llamafactory-cli convert-config\n", _dump(said)]
    if found.silent:
        lines += [f"\n# what {DIALECTS[name].title} does where its file says nothing\n", _dump(found.silent)]
    for title, rows in (("change nothing here", found.aside), ("have no counterpart", found.absent)):
        if rows:
            lines += [f"\n# keys that {title}\n", *(f"# {key}: {' '.join(why.split())}\n" for key, why in rows.items())]
    return "".join(lines)


def _dump(values: dict[str, Any]) -> str:
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=120) if values else ""
