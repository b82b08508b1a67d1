# SPDX-License-Identifier: Apache-2.0
"""The voice of a model that also speaks: put beside its trained thinker, as it was."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..extras.errors import ConfigError
from ..extras.files import read_json, write_json
from ..extras.logging import get_logger
from ..model.config import has_talker, read_config
from ..model.folders import CURE
from ..model.paths import resolve_model_path
from ..model.tokenizer import hub_options

if TYPE_CHECKING:
    from ..hparams.model_args import ModelArguments

logger = get_logger(__name__)

_THINKER = "thinker."
_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_SPEAKERS = "spk_dict.pt"  # read by transformers beside the weights of Qwen2.5-Omni


def add_voice(args: ModelArguments, folder: Path) -> None:
    """Make a folder of the thinker one of the whole model; nothing to do where the base has no voice.

    Args:
        args: Where the base came from.
        folder: Holds the thinker's weights under their names in the whole model, and its ``config.json``.
    """
    if not has_talker(read_config(args)):
        return
    from safetensors import safe_open
    from safetensors.torch import save_file

    thinker = read_json(folder / "config.json", dict, "export_dir", CURE)
    whole = read_json(_fetch("config.json", args), dict, "model_name_or_path", CURE)
    write_json(folder / "config.json", whole | {"thinker_config": thinker, "dtype": thinker.get("dtype")})
    if (folder / _SINGLE).exists():  # where there is a file of this name, no index is looked for
        (folder / _SINGLE).rename(folder / "thinker-00001.safetensors")
    names: dict[str, str] = {}
    size = 0
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as tensors:
            names |= dict.fromkeys(tensors.keys(), file.name)
        size += file.stat().st_size
    for number, (source, wanted) in enumerate(_voice_files(args), start=1):
        name = f"voice-{number:05d}.safetensors"
        with safe_open(source, "pt") as tensors:
            save_file({one: tensors.get_tensor(one) for one in wanted}, folder / name, {"format": "pt"})
        names |= dict.fromkeys(wanted, name)
        size += (folder / name).stat().st_size
    write_json(folder / _INDEX, {"metadata": {"total_size": size}, "weight_map": dict(sorted(names.items()))})
    if (speakers := _fetch(_SPEAKERS, args, needed=False)) is not None:
        shutil.copy(speakers, folder / _SPEAKERS)
    voice = sum(not name.startswith(_THINKER) for name in names)
    logger.info("The voice of the base (%d tensors) stands beside the thinker, as it was", voice)


def _voice_files(args: ModelArguments) -> Iterator[tuple[Path, list[str]]]:
    """Files of the base with tensors beside the thinker's, and their names."""
    from safetensors import safe_open

    index = _fetch(_INDEX, args, needed=False)
    if index is not None:
        places: dict[str, str] = read_json(index, dict, "model_name_or_path", CURE)["weight_map"]
        files = sorted({file for name, file in places.items() if not name.startswith(_THINKER)})
    else:
        files = [_SINGLE]
    for file in files:
        path = _fetch(file, args)
        with safe_open(path, "pt") as tensors:
            wanted = [name for name in tensors.keys() if not name.startswith(_THINKER)]  # noqa: SIM118 - no mapping
        if wanted:
            yield path, wanted


def _fetch(name: str, args: ModelArguments, needed: bool = True) -> Any:
    """Where a file of the base lies; ``None`` if there is none and it is not needed."""
    from transformers.utils import cached_file

    path = resolve_model_path(str(args.model_name_or_path), args)
    options = {key: value for key, value in hub_options(args).items() if key != "trust_remote_code"}
    found = cached_file(path, name, _raise_exceptions_for_missing_entries=False, **options)
    if found is None and needed:
        raise ConfigError(f"model_name_or_path: '{path}' holds no {name}; {CURE}")
    return None if found is None else Path(found)
