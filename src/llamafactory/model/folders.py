# SPDX-License-Identifier: Apache-2.0
"""The files of a model's or an adapter's folder, looked at before a library opens them: whole, and of the right shape.

What the libraries say of a damaged file seldom names it, and is a traceback more often than not.
"""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from zipfile import is_zipfile

from ..extras.errors import ConfigError, in_one_line
from ..extras.files import check_safetensors, read_json, read_text
from .field_checks import check_known_fields

CURE = "it is damaged: copy or download it again"
# What transformers and PEFT open; a folder may hold anything else.
_OPENED = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "processor_config.json", "preprocessor_config.json",
    "video_preprocessor_config.json", "chat_template.json", "adapter_config.json", "*.index.json", "*.jinja",
    "model*.safetensors", "adapter_model.safetensors", "value_head.safetensors", "pytorch_model*.bin",
    "adapter_model.bin", "merges.txt", "vocab.txt", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model",
)  # fmt: skip
_PART = re.compile(r"((?:pytorch_)?model)-\d+-of-\d+(\.safetensors|\.bin)")
_UNMADE = 0.1  # share of tokens without a merge: those of single letters with a mark, and special ones


def check_folder(folder: Path, key: str) -> None:
    """Refuse a folder one of whose files is damaged.

    Args:
        folder: Of a model, a tokenizer or an adapter; files of other kinds are not looked at.
        key: The configuration key that named it.

    Raises:
        ConfigError: A file cannot be read or is not what its name says; names it.
    """
    for path in sorted(folder.iterdir()):
        if any(fnmatchcase(path.name, pattern) for pattern in _OPENED):
            if not path.is_file():
                raise ConfigError(f"{key}: {path} is {'a folder' if path.is_dir() else 'no file'}; {CURE}")
            status = path.stat()
            _check(path, key, status.st_size, status.st_mtime_ns)
    _check_parts({path.name for path in folder.iterdir()}, folder, key)


def _check_parts(names: set[str], folder: Path, key: str) -> None:
    """Weights in parts are found by their index alone."""
    if any(name.endswith(".index.json") for name in names) or names & {"model.safetensors", "pytorch_model.bin"}:
        return
    for part in filter(None, map(_PART.fullmatch, sorted(names))):
        raise ConfigError(f"{key}: {folder / (part[1] + part[2])}.index.json is missing, {part[0]} needs it; {CURE}")


@lru_cache(maxsize=1024)
def _check(path: Path, key: str, size: int, changed: int) -> None:
    """Look at a file once, as long as it stays what it was."""
    _CHECKS[path.suffix](path, key)


def _check_json(path: Path, key: str) -> None:
    values = read_json(path, dict, key, CURE)
    if path.name.endswith(".index.json"):
        parts = values.get("weight_map")
        if not isinstance(parts, dict) or not all(isinstance(part, str) for part in parts.values()):
            raise ConfigError(f"{key}: {path} has no weight_map of tensors and their files; {CURE}")
        lost = sorted(part for part in set(parts.values()) if not (path.parent / part).is_file())
        if lost:
            raise ConfigError(f"{key}: {path.parent / lost[0]} is missing, {path.name} names it; {CURE}")
    check_known_fields(path, values, key)


def _check_text(path: Path, key: str) -> None:
    if "\0" in read_text(path, key, CURE):
        raise ConfigError(f"{key}: {path} is no text; {CURE}")


def _check_words(path: Path, key: str) -> None:
    """Look at a list of words or merges; half of one is read as if it were whole."""
    _check_text(path, key)
    _check_filled(path, key)
    beside = path.with_name("vocab.json")
    if path.name != "merges.txt" or not beside.is_file() or path.with_name("tokenizer.json").exists():
        return
    made = {"".join(line.split(" ")) for line in read_text(path, key).splitlines()}
    tokens = [token for token in read_json(beside, dict, key, CURE) if len(token) > 1]
    lost = sum(token not in made for token in tokens)
    if lost > _UNMADE * len(tokens):
        raise ConfigError(
            f"{key}: {path} makes {len(tokens) - lost:,} of the {len(tokens):,} tokens of vocab.json; {CURE}"
        )


def _check_filled(path: Path, key: str) -> None:
    if not path.stat().st_size:
        raise ConfigError(f"{key}: {path} is empty; {CURE}")


def _check_weights(path: Path, key: str) -> None:
    wrong = check_safetensors(path)
    if wrong:
        raise ConfigError(f"{key}: {path} {wrong}; {CURE}")
    config = path.with_name("config.json")
    if (
        path.name.startswith("model")
        and config.is_file()
        and not read_json(config, dict, key).get("quantization_config")
    ):
        _check_floating(path, key)


def _check_floating(path: Path, key: str) -> None:
    """Refuse weights that are whole numbers; transformers makes floating ones of them as if they were meant."""
    from safetensors import safe_open

    with in_one_line(f"{key}: {path}"), safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 (it is no mapping)
            kind = file.get_slice(name).get_dtype()
            if name.endswith((".weight", ".bias")) and kind[0] in "IUB" and kind != "BF16":
                raise ConfigError(
                    f"{key}: {path}: {name} is of type {kind}, and config.json says nothing of quantization; "
                    "weights are floating numbers"
                )


def _check_pickle(path: Path, key: str) -> None:
    """Read it as data alone: a pickle that wants to run something is refused."""
    import torch

    with in_one_line(f"{key}: {path} holds no plain weights", "it may be a program: take safetensors from who made it"):
        torch.load(path, map_location="meta", weights_only=True, mmap=is_zipfile(path))


_CHECKS = {
    ".json": _check_json,
    ".jinja": _check_text,
    ".safetensors": _check_weights,
    ".bin": _check_pickle,
    ".txt": _check_words,
    ".model": _check_filled,
}
