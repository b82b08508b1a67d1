# SPDX-License-Identifier: Apache-2.0
"""Whatever a user of LLaMA-Factory can name is here, or stands in ``docs/support.md`` with the reason why not."""

from __future__ import annotations

import re
from functools import cache, reduce
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import Seq2SeqTrainingArguments

from llamafactory.hparams.aliases import DROPPED, RENAMED, SWITCHED
from llamafactory.hparams.schema import known_keys
from llamafactory.launcher import COMMANDS, OTHER_NAMES

ROOT = Path(__file__).parents[1]
MISSION: dict[str, Any] = yaml.safe_load((ROOT / "tests" / "mission.yaml").read_text("utf-8"))
EXCEPTIONS: dict[str, str] = MISSION["exceptions"]
KINDS = [kind for kind in MISSION if kind != "exceptions"]


@cache
def words() -> set[str]:
    """Every word of our sources."""
    return {word for path in (ROOT / "src").rglob("*.py") for word in re.findall(r"\w+", path.read_text("utf-8"))}


def has_name(line: str) -> bool:
    module, _, attribute = line.partition(" ")
    try:
        reduce(getattr, attribute.split("."), import_module(module))
    except (ModuleNotFoundError, AttributeError):
        return False
    return True


def is_here(kind: str, name: str) -> bool:
    if kind == "commands":
        return name in COMMANDS or name in OTHER_NAMES
    if kind == "keys":
        return name in known_keys()
    if kind == "environment":
        return name in words()
    if kind == "paths":
        # A module may stand for a folder: third_party/muon.
        return (ROOT / name).exists() or (ROOT / f"{name}.py").exists()
    return has_name(name)


@pytest.mark.parametrize("kind", KINDS)
def test_all_of_it_is_here_but_for_what_is_listed(kind: str) -> None:
    missing = {name for name in MISSION[kind] if not is_here(kind, name)}
    assert missing - set(EXCEPTIONS) == set()


def test_an_exception_is_missing_and_stands_on_the_page_with_its_reason() -> None:
    page = (ROOT / "docs" / "support.md").read_text("utf-8")
    for name, why in EXCEPTIONS.items():
        [kind] = [kind for kind in KINDS if name in MISSION[kind]]
        assert not is_here(kind, name), f"{name} is here; take it off the list"
        assert why and f"`{name}`" in page, name


def test_keys_of_transformers_are_known_too() -> None:
    fields = {name for name, field in Seq2SeqTrainingArguments.__dataclass_fields__.items() if field.init}
    assert fields - known_keys() - set(RENAMED) - set(DROPPED) - set(SWITCHED) == set()


def test_the_list_is_long_and_has_no_name_twice() -> None:
    names = [name for kind in KINDS for name in MISSION[kind]]
    assert len(names) > 450 and len(names) == len(set(names))
    assert not is_here("paths", "examples/nothing") and not is_here("names", "llamafactory.data nothing")
    assert not is_here("keys", "nothing") and not is_here("environment", "NOTHING_OF_IT")
