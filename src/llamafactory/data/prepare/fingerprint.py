# SPDX-License-Identifier: Apache-2.0
"""What prepared data depends on: the key of the cache, the manifest of ``tokenized_path``, the run's fingerprint."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ...extras.errors import ConfigError
from ...hparams import split_list
from ..processor.base import OF_HEADS
from ..sources.cloud import cloud_version
from ..sources.dataset_info import DatasetAttr
from ..sources.files import list_files, readable

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ...hparams import TrainArgs
    from ...hparams.data_args import DataArguments
    from ..media.encoder import MediaEncoder
    from ..processor import Processor
    from ..template.base import Template

# Raise it whenever the same rows and settings give other features than before.
DATA_VERSION = 11

_SETTINGS = (
    "columns", "cutoff_len", "overlong", "train_on_prompt", "mask_history", "packing", "tool_format", "default_system",
    "enable_thinking", "preserve_thinking", "thoughts", "max_samples", "mix_strategy", "interleave_probs", "val_size",
    "eval_on_each_dataset", "deduplicate", "train_on_turn_break", "parse_special_tokens",
    "problem_type", "query_prompt", "document_prompt",
)  # fmt: skip
# Not part of a shard's key: rows are counted by what they hold, and mixed and packed after they were encoded.
_AFTER_ENCODING = (
    "dataset", "eval_dataset", "files", "max_samples", "mix_strategy", "interleave_probs", "val_size",
    "eval_on_each_dataset", "deduplicate", "packing", "seed",
)  # fmt: skip
_OF_EVALUATION = ("eval_dataset", "eval_on_each_dataset")
# Not compared for a folder that the user names, when the run does not name the sets again.
_OF_THE_SETS = ("dataset", "eval_dataset", "files", "max_samples", "mix_strategy", "interleave_probs", "val_size")


def identify(
    processor: Processor,
    template: Template,
    tokenizer: PreTrainedTokenizerBase,
    data: DataArguments,
    args: TrainArgs,
    sets: list[DatasetAttr],
) -> dict[str, Any]:
    """Collect everything that shapes the features, as plain values.

    Args:
        processor: Samples to features.
        template: Its text counts, not only its name.
        tokenizer: Its whole definition counts.
        data: The data section, with ``overlong`` and ``packing`` decided.
        args: For the seed and the names of the sets.
        sets: Every set used; files count by content, objects by their store's checksum, hub sets by
            name (``overwrite_cache`` takes a newer version).
    """
    return {
        "version": DATA_VERSION,
        "stage": processor.name,
        "template": template.name,
        "template_text": _hash(template.jinja().encode()),
        "tokenizer": _tokenizer_hash(tokenizer),
        **{name: getattr(data, name) for name in _SETTINGS},
        "seed": _seed(args),
        "dataset": data.dataset,
        "eval_dataset": data.eval_dataset,
        "files": {attr.name: _set_hash(attr) for attr in sets},
        **({"media": _media(template.media)} if template.media else {}),
    }


def fingerprint(identity: Mapping[str, Any]) -> str:
    """Hash of an identity: 32 hexadecimal digits."""
    return _hash(json.dumps(identity, sort_keys=True, default=str).encode())


def train_fingerprint(identity: Mapping[str, Any]) -> str:
    """Hash of what the training rows depend on: other evaluation sets leave it as it is."""
    names = split_list(identity["dataset"])
    files = {name: value for name, value in (identity["files"] or {}).items() if name in names}
    return fingerprint({key: value for key, value in identity.items() if key not in _OF_EVALUATION} | {"files": files})


def shard_key(identity: Mapping[str, Any], attr: DatasetAttr) -> str:
    """Hash of everything that the features of one set depend on, but for its rows."""
    settings = {key: value for key, value in identity.items() if key not in _AFTER_ENCODING}
    layout = {key: value for key, value in _layout(attr).items() if key not in ("num_samples", "weight", "repeat")}
    return fingerprint({**settings, "layout": layout})


def check_identity(folder: str, made_with: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Compare a folder of the user's with this run.

    Raises:
        ConfigError: They differ; every difference is named.
    """
    skipped = _OF_THE_SETS if not (wanted["dataset"] or wanted["eval_dataset"]) else ()
    differing = [key for key in wanted if key not in skipped and made_with.get(key) != wanted[key]]
    if not differing:
        return
    parts = []
    for key in differing:
        old, new = made_with.get(key), wanted[key]
        if key == "files":
            changed = sorted(name for name in {**old, **new} if old.get(name) != new.get(name)) if old else list(new)
            parts.append(f"the data of {', '.join(changed)} (changed)")
        elif key in ("template_text", "tokenizer"):
            parts.append(f"{key.replace('_', ' ')} (another one)")
        else:
            parts.append(f"{key} {old!r} (now {new!r})")
    raise ConfigError(
        f"tokenized_path: {folder} was made with {', '.join(parts)}; delete the folder or choose another one"
    )


def _seed(args: TrainArgs) -> int:
    return args.training.seed


def _tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    if tokenizer.is_fast:
        return _hash(tokenizer.backend_tokenizer.to_str().encode())
    return _hash(json.dumps([type(tokenizer).__name__, tokenizer.get_vocab()], sort_keys=True).encode())


def _set_hash(attr: DatasetAttr) -> str:
    hasher = hashlib.blake2b(json.dumps(_layout(attr), sort_keys=True).encode(), digest_size=16)
    if attr.place in ("hf", "ms", "om"):
        hasher.update(attr.location.encode())
        return hasher.hexdigest()
    if attr.place == "cloud":
        for address in list_files(attr):
            hasher.update(f"{address}\0{cloud_version(address)}\0".encode())
        return hasher.hexdigest()
    for path in list_files(attr):
        hasher.update(b"\0file\0")
        with readable(path), open(path, "rb") as file:
            while chunk := file.read(1 << 20):
                hasher.update(chunk)
    return hasher.hexdigest()


def _layout(attr: DatasetAttr) -> dict[str, Any]:
    settings = {key: value for key, value in asdict(attr).items() if key not in ("location", "listed", "media_dir")}
    # Parts of rows that came later than folders that are still in use.
    columns = settings["columns"].items()
    settings["columns"] = {part: name for part, name in columns if part not in OF_HEADS or name is not None}
    return settings if attr.media_dir is None else {**settings, "media_dir": os.path.abspath(attr.media_dir)}


def _media(encoder: MediaEncoder) -> dict[str, Any]:
    """What decides how many tokens a medium takes, and which."""
    return {
        "family": asdict(encoder.family),
        "limits": asdict(encoder.limits),
        "processor": _hash(encoder.processor.to_json_string().encode()),
    }


def _hash(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()
