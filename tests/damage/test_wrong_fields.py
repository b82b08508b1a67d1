# SPDX-License-Identifier: Apache-2.0
"""Single wrong fields in the JSON files that commands open: null, text, a negative number or a list in each of them.

A command ends with one line that names file and field; or, where the library that reads the field takes the value
too, with exit code 0.
"""

from __future__ import annotations

import json
import random
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from huggingface_hub.dataclasses import type_validator
from peft import PEFT_TYPE_TO_CONFIG_MAPPING

from .fields import VALUES, Place, at, with_field, wrong_fields
from .world import COMMANDS, Outcome, World

# What a model, an adapter and our own folders bring: command → its JSON files that it is asked with.
TABLE = {
    "train": ("base/*.json",),
    "infer": ("base/*.json",),
    "train-adapter": ("adapter/adapter_config.json", "adapter/tokenizer_config.json"),
    "export": ("adapter/adapter_config.json", "base/generation_config.json"),
    "chat-exported": ("exported/*.json",),
    "grpo-reward-model": ("reward/*.json",),
    "train-listed": ("data/dataset_info.json",),
    "train-prepared": ("prepared/*.json", "prepared/*/*.json"),
    "train-cache": ("out/.data/*/*.json", "out/.data/*/*/*.json"),
    "infer-again": (".answers.jsonl.settings.json",),
    "eval": ("tasks/quiz/mapping.json",),
    "resume": ("run/checkpoint-2/*.json",),
}
# Of these the whole file is compared with what was written: which field differs is of no use to anybody. A cache is
# made again, and of checkpoints the one before is taken.
HASHED = ("prepared/*", "out/.data/*", "run/checkpoint-*", ".answers.jsonl.settings.json")
# "file field value" whose line comes from what follows of it: the file or the field is not what it names.
FOLLOWS = (
    "*/config.json *", "data/dataset_info.json listed.file_name text", "*/tokenizer_config.json tokenizer_class *",
    "*/adapter_config.json target_modules* *", "*/adapter_config.json r negative",
    "*/adapter_config.json layers_to_transform negative",
    "prepared/llamafactory_files.json files.* negative",
)  # fmt: skip
# A token of any text can be one; the line says how to make room for it.
NEW_TOKENS = ("*/tokenizer_config.json eos_token text", "*/tokenizer_config.json pad_token text")
# Read by the Rust tokenizer (test_damaged_files.py breaks them), or by nobody.
LEFT_OUT = (
    "tokenizer.json", "vocab.json", "added_tokens.json", "*.index.json", "run_manifest.json", "compatibility.json",
    "*_results.json",
)  # fmt: skip


def files(world: World, name: str) -> list[str]:
    """The JSON objects that a command is tried with."""
    found = [path for pattern in TABLE[name] for path in sorted(world.whole.glob(pattern))]
    named = [path for path in found if not any(fnmatchcase(path.name, some) for some in LEFT_OUT)]
    assert named, name
    return [str(path.relative_to(world.whole)) for path in named if isinstance(json.loads(path.read_bytes()), dict)]


def is_hashed(file: str) -> bool:
    return any(fnmatchcase(file, pattern) for pattern in HASHED)


def run_with(world: World, name: str, file: str, place: Place, value: str) -> Outcome:
    path = world.folder / file
    document = with_field(json.loads(path.read_bytes()), place, VALUES[value])
    path.unlink()  # it is a hard link to the whole one
    path.write_text(json.dumps(document))
    try:
        return world.run(COMMANDS[name])
    finally:
        world.restore()


def peft_takes(values: dict[str, Any], field: str, value: Any) -> bool:
    """What PEFT's own annotations say, read by huggingface_hub's validator."""
    hints = get_type_hints(PEFT_TYPE_TO_CONFIG_MAPPING[values["peft_type"]])
    try:
        type_validator(field, value, hints.get(field, Any))
    except TypeError:
        is_flag = bool in (kinds := (hints[field], *get_args(hints[field]))) or dict in kinds  # null: it is not set
        return (value is None and is_flag) or (hints[field] is float and isinstance(value, int))
    return True


def wrong(world: World, name: str, file: str, place: Place, value: str) -> str | None:
    """What is wrong with the end of a command over a file with one wrong field, None if it is right."""
    case, outcome = f"{file} {'.'.join(map(str, place))} {value}", run_with(world, name, file, place, value)
    if outcome.code == 0:
        whole = json.loads((world.whole / file).read_bytes())
        if Path(file).name == "adapter_config.json" and len(place) == 1 and not is_hashed(file):
            return None if peft_takes(whole, str(place[0]), VALUES[value]) else f"{name} {case}: taken"
        return None
    if outcome.code not in (1, 2) or "Traceback" in outcome.errors or not outcome.last.startswith("error: "):
        return f"{name} {case}: {outcome.errors[-1500:]}"
    if any(fnmatchcase(case, some) for some in NEW_TOKENS):
        return None
    names = [str(key) for key in place if isinstance(key, str)]
    is_named = Path(file).name in outcome.last and any(
        key in outcome.last or key.replace("_", " ") in outcome.last for key in names
    )
    follows = any(fnmatchcase(case, some) for some in FOLLOWS) and Path(file).parent.name in outcome.last
    named = is_named or follows or (is_hashed(file) and file.partition("/")[2] in outcome.last)
    return None if named else f"{name} {case}: not named: {outcome.last}"


@pytest.mark.parametrize("name", ["train-adapter", "infer", "eval", "train-listed"])
def test_some_wrong_fields(world: World, name: str) -> None:
    draw, found = random.Random(name), []
    for file in files(world, name):
        cases = [case for case in wrong_fields(world.whole / file) if case[1] != "negative" or name != "infer"]
        found += [wrong(world, name, file, *case) for case in draw.sample(cases, min(3, len(cases)))]
    assert [line for line in found if line] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", TABLE)
def test_every_wrong_field(world: World, name: str) -> None:
    found = [
        wrong(world, name, file, *case)
        for file in files(world, name)
        for case in wrong_fields(world.whole / file)[:: 8 if is_hashed(file) else 1]
    ]
    assert [line for line in found if line] == []


KNOWN = [
    ("train-adapter", "adapter/adapter_config.json", ("lora_alpha",), "null"),
    ("train-adapter", "adapter/adapter_config.json", ("r",), "text"),
    ("train-adapter", "adapter/adapter_config.json", ("alpha_pattern",), "list"),
    ("train-adapter", "adapter/adapter_config.json", ("peft_type",), "list"),
    ("train-adapter", "adapter/adapter_config.json", ("target_modules",), "negative"),
    ("train-adapter", "adapter/adapter_config.json", ("modules_to_save",), "negative"),
    ("train-adapter", "adapter/adapter_config.json", ("use_rslora",), "text"),
    ("train", "base/config.json", ("attention_dropout",), "negative"),
    ("train", "base/config.json", ("vocab_size",), "text"),
    ("train", "base/config.json", ("num_hidden_layers",), "negative"),
    ("train", "base/config.json", ("dtype",), "text"),
    ("grpo-reward-model", "reward/config.json", ("architectures",), "negative"),
    ("train", "base/tokenizer_config.json", ("model_max_length",), "text"),
    ("export", "base/generation_config.json", ("temperature",), "text"),
    ("eval", "tasks/quiz/mapping.json", ("water", "category"), "list"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "file", "place", "value"), KNOWN, ids=str)
def test_fields_that_went_wrong(world: World, name: str, file: str, place: Place, value: str) -> None:
    """Tracebacks, lines that named nothing, and values that were taken, before anybody looked."""
    outcome = run_with(world, name, file, place, value)
    assert outcome.code == 1 and "Traceback" not in outcome.errors, outcome.errors[-2000:]
    assert Path(file).name in outcome.last and str(place[-1]) in outcome.last, outcome.last
    shown = {"null": "null", "text": "many", "negative": "-1", "list": "['a']"}[value]
    assert shown in outcome.last, outcome.last


def test_a_table_of_an_adapter_may_be_null(world: World) -> None:
    """PEFT's annotations take null for it, its code does not; so written it means that there is none."""
    place = ("rank_pattern",)
    assert at(json.loads((world.whole / "adapter" / "adapter_config.json").read_bytes()), place) == {}
    assert run_with(world, "train-adapter", "adapter/adapter_config.json", place, "null").code == 0
