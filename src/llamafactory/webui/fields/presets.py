# SPDX-License-Identifier: Apache-2.0
"""Saved values of the fields, by name; and the example files that come with a checkout."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ...extras.errors import ConfigError, in_one_line
from ...extras.files import read_text, write_atomic
from ...hparams import split_list
from ...hparams.reader import read_file
from ..workspace import CONFIGS, check_name, inside, is_text, workspace
from .choices import changed_at
from .fields import Field, every_field

_CHECKOUT = Path(__file__).parents[4]
_NO_RUNS = frozenset(("accelerate", "clusters", "v1", "tokens_cfg.yaml"))  # folders and files of examples/
_LARGEST = 2**20
# What the stages are called in files that LLaMA Board saved.
_STAGES = {
    "Supervised Fine-Tuning": "sft",
    "Reward Modeling": "rm",
    "PPO": "ppo",
    "DPO": "dpo",
    "KTO": "kto",
    "Pre-Training": "pt",
}


def list_presets() -> list[str]:
    """Names of the saved configurations, the newest first."""
    folder = workspace() / CONFIGS
    files = [path for path in folder.glob("*.yaml") if path.is_file() and path.name[0] != "." and is_text(path.name)]
    return [path.stem for path in sorted(files, key=lambda path: (-changed_at(path), path.name))]


def save_preset(name: str, values: Mapping[str, Any]) -> Path:
    """Save field id to value under a name; an existing one is replaced whole.

    Raises:
        ConfigError: The name is none that a file may have.
    """
    known = {field.id for field in every_field()}
    kept = {key: value for key, value in values.items() if key in known}
    path = _path(name)
    write_atomic(path, yaml.safe_dump(kept, allow_unicode=True, sort_keys=False))
    return path


def load_preset(name: str) -> dict[str, Any]:
    """Field id to value, as they were saved; fields that the page does not have are left out.

    Raises:
        ConfigError: There is no such file, or it holds something else.
    """
    path = _path(name)
    if path.is_file() and path.stat().st_size > _LARGEST:
        raise ConfigError(f"{path.name}: larger than {_LARGEST} bytes, which no saved configuration is")
    text = read_text(path, "config_path")
    with in_one_line(f"config_path: {path.name} is no YAML file"):
        found = yaml.safe_load(text)
    if not isinstance(found, dict):
        raise ConfigError(f"config_path: {path.name} holds no fields")
    known = {field.id: field for field in every_field()}
    values = {key: _value_of(known[key], value, path.name) for key, value in found.items() if key in known}
    stage = values.get("train.training_stage")
    return values | ({"train.training_stage": _STAGES[stage]} if stage in _STAGES else {})


def _value_of(field: Field, value: Any, name: str) -> Any:
    """A value that the field can show.

    Raises:
        ConfigError: The file was written by hand, and this value is of another kind.
    """
    plain = str | int | float | None
    if field.widget == "multi":
        if isinstance(value, str):
            return split_list(value)
        fits = value is None or (isinstance(value, list) and all(isinstance(one, str | int | float) for one in value))
        kind = "a list"
    elif field.widget == "switch":
        fits, kind = isinstance(value, bool), "true or false"
    elif field.widget == "slider":
        fits, kind = isinstance(value, int | float) and not isinstance(value, bool), "a number"
    else:
        fits, kind = isinstance(value, plain), "text or a number"
    if not fits:
        raise ConfigError(f"config_path: {name}: {field.id}: expected {kind}, got {type(value).__name__}")
    return value


def example_files() -> list[str]:
    """The example files that come with a checkout, relative to it; none where there is no checkout.

    Some are no runs: files of accelerate and of new tokens are named by runs, those of clusters name one; and those of
    the v1 engine hold its keys, which are no fields of the page.
    """
    folder = _examples()
    if folder is None:
        return []
    names = (path.relative_to(folder) for path in folder.rglob("*.yaml"))
    found = sorted(name.as_posix() for name in names if not _NO_RUNS.intersection(name.parts))
    return sorted(found, key=lambda name: (name.count("/"), name))


def load_example(path: str) -> tuple[str, dict[str, Any]]:
    """Text of one example file, and its keys.

    Raises:
        ConfigError: It is none of :func:`example_files`.
    """
    folder = _examples()
    if folder is None or path not in example_files():
        raise ConfigError(f"example: {path!r} is none of the examples")
    return read_text(folder / path, "example"), read_file(str(folder / path)).values


def _examples() -> Path | None:
    folder = _CHECKOUT / "examples"
    return folder if folder.is_dir() and (_CHECKOUT / "pyproject.toml").is_file() else None


def _path(name: str) -> Path:
    stem = check_name(str(name).strip().removesuffix(".yaml"), "config_path")
    return inside(Path(CONFIGS) / f"{stem}.yaml", "config_path")
