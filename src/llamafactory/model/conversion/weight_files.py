# SPDX-License-Identifier: Apache-2.0
"""A folder's weights read tensor by tensor, and written in files of a size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from ...extras.errors import ConfigError, first_line, in_one_line
from ...extras.files import read_json, write_json

if TYPE_CHECKING:
    from torch import Tensor

INDEX = "model.safetensors.index.json"
_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9}


def read_tensors(folder: Path, key: str) -> Iterator[tuple[str, Tensor]]:
    """Yield every tensor of a folder's weights; of pickles only what torch reads without running code.

    Args:
        folder: With ``*.safetensors`` or ``pytorch_model*.bin``.
        key: That named it, for the message.

    Raises:
        ConfigError: There are none, or one cannot be read.
    """
    if files := sorted(folder.glob("*.safetensors")):
        for file in files:
            with in_one_line(f"{key}: {file} cannot be read"), safe_open(file, "pt") as opened:
                for name in opened.keys():  # noqa: SIM118  # it is no mapping
                    yield name, opened.get_tensor(name)
        return
    files = sorted(folder.glob("pytorch_model*.bin"))
    if not files:
        raise ConfigError(f"{key}: '{folder}' has no *.safetensors and no pytorch_model*.bin")
    for file in files:
        with in_one_line(f"{key}: {file} cannot be read"):
            yield from torch.load(file, map_location="cpu", mmap=True, weights_only=True).items()


def bytes_of(text: str | float, key: str = "shard_size") -> int:
    """``"2GB"`` (or a bare number: gigabytes) as bytes.

    Raises:
        ConfigError: It is no size.
    """
    words = str(text).strip().upper()
    unit = next((known for known in _UNITS if words.endswith(known)), "")
    try:
        size = int(float(words.removesuffix(unit)) * _UNITS[unit or "GB"])
    except ValueError:
        size = 0
    if size < 1:
        raise ConfigError(f"{key}: expected a size such as 2GB, got {text!r}")
    return size


def write_tensors(tensors: Iterable[tuple[str, Tensor]], folder: Path, shard_size: str | float) -> int:
    """Write tensors as ``model*.safetensors``, never more of them in memory than one file takes.

    Args:
        tensors: Names and values; each name once.
        folder: Where they go.
        shard_size: Most bytes of a file; a larger tensor has one for itself.

    Returns:
        How many bytes of weights there are.
    """
    most, parts, places, total = bytes_of(shard_size), 0, {}, 0
    held: dict[str, Tensor] = {}

    def flush() -> None:
        nonlocal parts, held
        save_file(held, folder / f"part-{parts}.safetensors", {"format": "pt"})
        places.update(dict.fromkeys(held, parts))
        parts, held = parts + 1, {}

    for name, value in tensors:
        if held and sum(one.nbytes for one in held.values()) + value.nbytes > most:
            flush()
        held[name] = value.contiguous().clone()  # views of one storage would be refused
        total += value.nbytes
    if held:
        flush()
    names = [
        "model.safetensors" if parts == 1 else f"model-{number:05}-of-{parts:05}.safetensors"
        for number in range(1, parts + 1)
    ]
    for number, name in enumerate(names):
        (folder / f"part-{number}.safetensors").rename(folder / name)
    if parts > 1:
        where = {name: names[number] for name, number in sorted(places.items())}
        write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": where})
    return total


def read_settings(folder: Path, key: str) -> dict[str, Any]:
    """A folder's ``config.json``.

    Raises:
        ConfigError: It cannot be read.
    """
    settings: dict[str, Any] = read_json(folder / "config.json", dict, key)
    return settings


def require_model(folder: str | Path, key: str) -> Path:
    """A folder that holds a model.

    Raises:
        ConfigError: It is none.
    """
    found = Path(folder).expanduser()
    if not (found / "config.json").is_file():
        raise ConfigError(f"{key}: '{folder}' is no folder with a config.json")
    return found


def free_folder(folder: str | Path, key: str) -> Path:
    """A folder that can be made.

    Raises:
        ConfigError: Something is there.
    """
    final = Path(folder).expanduser().absolute()
    if final.is_file() or (final.is_dir() and any(final.iterdir())):
        raise ConfigError(f"{key}: {final} is there already; choose another folder or remove it")
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{key}: {final} cannot be made: {first_line(error)}") from error
    return final
