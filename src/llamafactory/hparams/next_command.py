# SPDX-License-Identifier: Apache-2.0
"""What to type next: the command that was typed, with those of its keys that the next one reads."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

from ..extras.secrets import mask_words
from .aliases import RENAMED
from .args import SHARED_SECTIONS, TRAINING_SECTIONS, InferArgs
from .help_text import SECTIONS
from .schema import keys_of, plugin_sections

_TRAINING = ("train", "preview", "preprocess", "check-data")  # what one of them does not read another one may
_OF_OTHERS = ("infer", "evaluation", "export")
_LEADING = {"output_dir", "dataset"}  # they lead a command of inference to the trained model
_OF_ONE = {"device", "report_format", "preview_format", "preview_samples", "messages"}


def next_command(command: str, words: Sequence[str], **more: Any) -> str:
    """Return a command line for a shell.

    Args:
        command: Of ours, the next one.
        words: The arguments of the command that was typed.
        more: Keys to add, instead of those among ``words``.
    """
    known, kept, keeps = _keys_read_by(command) - more.keys(), list[str](), True
    for number, word in enumerate(words):
        key, equals, _ = word.partition("=")
        if word.startswith("--") or (equals and key.replace(".", "").isidentifier()):
            key = key.removeprefix("--").replace("-", "_").split(".")[0]
            keeps = RENAMED.get(key, key) in known
        elif number == 0:
            keeps = True  # the file
        kept += [word] if keeps else []  # `--key value`: the value goes with its key
    kept += [f"{key}={value}" for key, value in more.items()]
    return shlex.join(["llamafactory-cli", command, *mask_words(kept)])


def words_of(args: InferArgs) -> list[str]:
    """Return the plain keys of a configuration that Python code gave, as words of a command line."""
    return [f"{key}={value}" for key, value in args.keys.items() if isinstance(value, str | int | float)]


def _keys_read_by(command: str) -> set[str]:
    tables = {**SHARED_SECTIONS, **TRAINING_SECTIONS}
    if command not in _TRAINING:
        return {key for name in SECTIONS[command] for key in keys_of(tables[name])} | _LEADING
    sections = [section for name, section in tables.items() if name not in _OF_OTHERS] + [*plugin_sections().values()]
    return {key for section in sections for key in keys_of(section)} - (_OF_ONE if command == "train" else set())
