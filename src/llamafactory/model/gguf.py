# SPDX-License-Identifier: Apache-2.0
"""GGUF files are dequantized once into a cached safetensors folder; every later load is an ordinary one."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from ..extras.errors import ConfigError, in_one_line
from ..extras.file_list import find_damage, write_file_list
from ..extras.files import publish_folder
from ..extras.locks import staging_folder
from ..extras.logging import get_logger
from ..extras.packages import require
from .pre_tokenizers import pre_tokenizer

logger = get_logger(__name__)

_HEAD_BYTES = 1 << 20
_LIST = "llamafactory_files.json"
_LAYOUT = "3"  # raise when what is written below changes, so that older cached folders are left alone


def convert_gguf(file: Path, cache_dir: str | None = None) -> Path:
    """Return the safetensors folder of a GGUF file, converting it on first use.

    The weights are written in bfloat16: the file's own quantization error is larger than that rounding. The folder
    appears by one rename under a lock, so that ranks or test workers that start together convert once.

    Args:
        file: The ``.gguf`` file.
        cache_dir: Parent of the cache; default ``~/.cache/llamafactory``.

    Raises:
        ConfigError: The file is missing, is not GGUF, or its architecture is unknown to transformers.
    """
    if not file.is_file():
        raise ConfigError(f"model_name_or_path: '{file}' does not exist")
    try:
        with file.open("rb") as handle:
            head = handle.read(_HEAD_BYTES)
    except OSError as error:
        raise ConfigError(f"model_name_or_path: '{file}' cannot be read: {error.strerror}") from None
    if not head.startswith(b"GGUF"):
        raise ConfigError(f"model_name_or_path: '{file}' is not a GGUF file")
    require("gguf", f"model_name_or_path: '{file}'")
    root = Path(cache_dir).expanduser() if cache_dir else Path.home() / ".cache" / "llamafactory"
    status = file.stat()
    key = hashlib.sha256(f"{_LAYOUT} {status.st_size} {status.st_mtime_ns} ".encode() + head).hexdigest()[:16]
    folder = root / "gguf" / f"{file.stem}-{key}"
    if _is_whole(folder):
        return folder

    folder.parent.mkdir(parents=True, exist_ok=True)
    with staging_folder(folder, "model_name_or_path", wait=True) as staging:
        if not _is_whole(folder):
            _convert(file, staging, folder)
    return folder


def _is_whole(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    fault = find_damage(folder, _LIST)
    if fault:
        logger.warning_once(f"{folder} is damaged ({fault}); it is made again")
    return fault is None


def _convert(file: Path, staging: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    started = time.perf_counter()
    logger.info_rank0("Converting %s to safetensors (once; takes a minute per 150M weights)", file.name)
    trouble = f"model_name_or_path: '{file}' cannot be converted (cut off, or of an unknown kind)"
    with tempfile.TemporaryDirectory() as alone, in_one_line(trouble):
        # Of the files beside it, transformers takes what it knows by name: a tokenizer without its special tokens.
        Path(alone, file.name).symlink_to(file.absolute())
        source = {"pretrained_model_name_or_path": alone, "gguf_file": file.name}
        tokenizer = AutoTokenizer.from_pretrained(**source)
        _mend_splitting(tokenizer, file)
        tokenizer.save_pretrained(staging)
        dense = GgufConfig(dequantize=True)
        model = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.bfloat16, quantization_config=dense)
        model.save_pretrained(staging)
    write_file_list(staging, _LIST)
    if folder.is_dir():  # damaged: what is made of the file again takes its place
        os.replace(folder, staging.with_name(staging.name + "-old"))
        shutil.rmtree(staging.with_name(staging.name + "-old"))
    publish_folder(staging, folder)
    logger.info_rank0("Converted in %.0f s: %s", time.perf_counter() - started, folder)


def _mend_splitting(tokenizer: Any, file: Path) -> None:
    """Cut text before BPE as the file says: transformers gives most byte-level vocabularies the splitting of GPT-2."""
    from gguf import GGUFReader

    field = GGUFReader(file).fields.get("tokenizer.ggml.pre")
    splitting = None if field is None else pre_tokenizer(field.contents())
    if splitting is not None:
        tokenizer.backend_tokenizer.pre_tokenizer = splitting
