# SPDX-License-Identifier: Apache-2.0
"""What the page remembers of its user between two visits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from ..extras.files import write_atomic
from .texts.texts import LANGUAGES
from .workspace import CACHE, workspace

USER_CONFIG = "user_config.yaml"


def load_config() -> dict[str, Any]:
    """Language, hub and the like, as they were last chosen; a file that cannot be read counts as none."""
    try:
        found = yaml.safe_load(_path().read_text("utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}


def save_config(
    lang: str, hub_name: str | None = None, model_name: str | None = None, model_path: str | None = None
) -> None:
    """Remember what was chosen; what is not given stays as it was."""
    given = {"lang": lang, "hub_name": hub_name, "last_model": model_name}
    config = {**load_config(), **{key: value for key, value in given.items() if value}}
    if model_name and model_path:
        known = config.get("path_dict")
        config["path_dict"] = {**(known if isinstance(known, dict) else {}), model_name: model_path}
    write_atomic(_path(), yaml.safe_dump(config, allow_unicode=True))


def language() -> str:
    """The language that was last chosen."""
    chosen = load_config().get("lang")
    return chosen if chosen in LANGUAGES else "en"


def _path() -> Path:
    return workspace() / CACHE / USER_CONFIG
