# SPDX-License-Identifier: Apache-2.0
"""Reading a configuration: a YAML or JSON file, command-line words, or a dict, to one flat mapping of keys."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ..extras.errors import ConfigError, UsageError, first_line

FILE_ENDINGS = (".yaml", ".yml", ".json")
_OVERRIDE = re.compile(r"[A-Za-z_][\w.]*=", re.ASCII)


@dataclass
class Flat:
    """Keys as they were written.

    Attributes:
        values: Key to value; words of a command line stay text.
        origin: Key to where it was written (``cfg.yaml:12``); a key from the command line or a dict has none.
        empty: Keys after which a YAML file has nothing; ``null`` is something.
    """

    values: dict[str, Any] = field(default_factory=dict)
    origin: dict[str, str] = field(default_factory=dict)
    empty: set[str] = field(default_factory=set)

    def place(self, key: str) -> str:
        """Return ``"cfg.yaml:12: "``, or nothing when the key came from no file."""
        return f"{self.origin[key]}: " if key in self.origin else ""

    def set(self, key: str, value: Any) -> None:
        """Set one key; ``a.b`` sets entry ``b`` of the mapping ``a``."""
        name, *inner = key.split(".")
        if not inner:
            self.values[name] = value
        else:
            self.values[name] = _nested(key, self.values.get(name), inner, value)
        self.origin.pop(name, None)
        self.empty.discard(name)


def read_source(source: Mapping[str, Any] | Sequence[str]) -> Flat:
    """Read a dict of flat keys, or command-line words.

    Args:
        source: A dict, or words: ``[FILE.yaml|.yml|.json] [key=value ...] [--key value | --key=value | --flag ...]``.

    Raises:
        UsageError: There are no words.
        ConfigError: The file or a word cannot be read.
    """
    if isinstance(source, Mapping):
        flat = Flat()
        for key, value in source.items():
            if not isinstance(key, str):
                raise ConfigError(f"configuration: keys are text, got {key!r}")
            flat.set(key, value)
        return flat
    words = list(source)
    if not words:
        raise UsageError(
            "no configuration given: expected a .yaml or .json file, key=value or --key value (-h lists all)"
        )
    is_file = words[0].endswith(FILE_ENDINGS) and not _is_option(words[0]) and not _OVERRIDE.match(words[0])
    flat = read_file(words.pop(0)) if is_file else Flat()
    _read_words(words, flat)
    return flat


def read_file(name: str) -> Flat:
    """Read one YAML or JSON file; every error names the file and, where there is one, the line."""
    path = Path(name).expanduser()
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(f"{name}: no such file") from None
    except IsADirectoryError:
        raise ConfigError(f"{name}: is a folder, expected a file") from None
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise ConfigError(f"{name}:{line}: not UTF-8 text") from None
    except OSError as error:
        raise ConfigError(f"{name}: cannot be read: {error.strerror}") from None
    return _read_json(name, text) if name.endswith(".json") else _read_yaml(name, text)


def _read_yaml(name: str, text: str) -> Flat:
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            raise ConfigError(f"{name}: the file is empty")
        if not isinstance(node, yaml.MappingNode):
            raise ConfigError(f"{name}:{node.start_mark.line + 1}: expected key: value lines")
        lines = _key_lines(name, node)
        values = loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line if mark else 0
        content = text.splitlines()[line] if line < len(text.splitlines()) else ""
        hint = "a tab; YAML indents with spaces" if "\t" in content else error.problem or error.context
        raise ConfigError(f"{name}:{line + 1}: not YAML: {hint}") from None
    except ConfigError:
        raise
    except RecursionError:
        raise ConfigError(f"{name}: not YAML: nested too deep") from None
    except (yaml.YAMLError, ValueError) as error:  # an unprintable character; a date that is none
        raise ConfigError(f"{name}: not YAML: {' '.join(str(error).split())}") from None
    empty = {key.value for key, value in node.value if isinstance(value, yaml.ScalarNode) and _is_empty(value)}
    return Flat(values, {key: f"{name}:{line}" for key, line in lines.items()}, empty)


def _is_empty(node: yaml.ScalarNode) -> bool:
    return node.value == "" and node.tag == "tag:yaml.org,2002:null"


def _key_lines(name: str, node: yaml.MappingNode) -> dict[str, int]:
    """Return the line of each top-level key; a key that is not text or comes twice (at any depth) is an error."""
    lines: dict[str, int] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode) or key.tag != "tag:yaml.org,2002:str":
            if getattr(key, "value", "") != "<<":
                found = repr(key.value) if isinstance(key, yaml.ScalarNode) else "a list or an object"
                raise ConfigError(f"{name}:{line}: keys are text, got {found}")
            continue
        if key.value in lines:
            raise ConfigError(f"{name}:{line}: {key.value} is given twice, first in line {lines[key.value]}")
        lines[key.value] = line
        if isinstance(value, yaml.MappingNode):
            _key_lines(name, value)
    return lines


def _read_json(name: str, text: str) -> Flat:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise ConfigError(f"{name}: {key} is given twice")
            found[key] = value
        return found

    try:
        values = json.loads(text, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{name}:{error.lineno}: not JSON: {error.msg}") from None
    except RecursionError:
        raise ConfigError(f"{name}: not JSON: nested too deep") from None
    except ConfigError:
        raise
    except ValueError as error:  # a number of more digits than Python reads
        raise ConfigError(f"{name}: not JSON: {first_line(error)}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{name}:1: expected a JSON object of keys")
    return Flat(values, dict.fromkeys(values, name))


def _is_option(word: str) -> bool:
    return word.startswith("--") and len(word) > 2


def _read_words(words: list[str], flat: Flat) -> None:
    """Take ``key=value``, ``--key=value``, ``--key value [value ...]`` and bare ``--flag`` words into ``flat``."""
    position = 0
    while position < len(words):
        word = words[position]
        position += 1
        if _is_option(word):
            key, equals, value = word[2:].partition("=")
            if equals:
                flat.set(_name(key), value)
                continue
            taken: list[str] = []
            while position < len(words) and not _is_option(words[position]):
                if taken and _OVERRIDE.match(words[position]):
                    break
                taken.append(words[position])
                position += 1
            flat.set(_name(key), True if not taken else taken[0] if len(taken) == 1 else taken)
        elif _OVERRIDE.match(word):
            key, _, value = word.partition("=")
            flat.set(key, value)
        else:
            kind = "file" if os.path.sep in word or "." in word else "word"
            if word.endswith(".gguf"):
                raise ConfigError(f"{word}: a model's file is given as model_name_or_path={word}")
            raise ConfigError(
                f"{word}: unexpected {kind}; expected a .yaml or .json file first, then key=value or --key value"
            )


def _name(option: str) -> str:
    name, dot, rest = option.partition(".")
    return name.replace("-", "_") + dot + rest


def _nested(key: str, current: Any, inner: list[str], value: Any) -> dict[str, Any]:
    """Return a copy of the mapping ``current`` with one inner entry set; the value is read as a YAML scalar."""
    if current is not None and not isinstance(current, dict):
        raise ConfigError(f"{key}: {key.split('.')[0]} is {current!r}, not a mapping, so nothing inside it can be set")
    result = dict(current or {})
    if len(inner) > 1:
        result[inner[0]] = _nested(key, result.get(inner[0]), inner[1:], value)
    else:
        result[inner[0]] = yaml.safe_load(value) if isinstance(value, str) else value
    return result
