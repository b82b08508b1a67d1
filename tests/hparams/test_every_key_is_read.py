# SPDX-License-Identifier: Apache-2.0
"""A key is obeyed or refused: code reads it and acts on it, or every value but its default is refused in one line."""

from __future__ import annotations

import ast
import dataclasses
from typing import Any, Literal, get_args, get_origin

import pytest
from key_reads import SECTIONS, decided_here, our_reads, reads_of, transformers_reads

from llamafactory.extras.errors import ConfigError
from llamafactory.hparams import get_train_args, unbuilt
from llamafactory.hparams.ranges import Range
from llamafactory.hparams.schema import Key, keys_of, plugin_sections

# Read in a way that the walk over the sources does not see.
ALLOWED = {
    "save_steps": "DefaultFlowCallback reads it through TrainerState.compute_steps, getattr(args, f'{name}_steps')",
    "fsdp": "hparams/sharding.py reads it with fsdp_config, see test_sharding.py",
    "tf32": "TrainingArguments sets torch's switch when it is made",
    "torch_compile": "TrainingArguments makes torch_compile_backend of it when it is made, which the trainer reads",
}

# Handed on to transformers, where nothing comes of it in a run of ours.
BYPASSED = {
    "eval_use_gather_object": "given to Accelerate for gathering predictions, which our evaluation does not do",
}

# Obeyed without being read, and said: either value asks for what is done anyway, or only for speed.
SAID = {**unbuilt.DONE_ANYWAY, **unbuilt.SPEED_ONLY}

BASE = {"model_name_or_path": "org/tiny", "dataset": "identity"}


def unread_keys(sections: dict[str, type]) -> dict[str, Key]:
    """Return the keys of some sections that no code reads."""
    ours, passed_on = our_reads(), transformers_reads() - decided_here() - set(BYPASSED)
    found = {}
    for title, section in sections.items():
        name = title.partition(" ")[0]  # "tuner lora"
        for key, declared in keys_of(section).items():
            if (name, key) not in ours and not (name == "training" and key in passed_on):
                found[key] = declared
    return found


def silent_keys(sections: dict[str, type]) -> set[str]:
    """Return those of them of which no value is refused either."""
    return {key for key, declared in unread_keys(sections).items() if not is_refused(declared)}


def is_refused(key: Key) -> bool:
    """Whether each value that is not the default ends a run before it begins, in one line that names the key."""
    values = other_values(key.hint, key.default, key.within)
    return all(_refusal({key.name: value}).startswith(f"{key.name}: ") for value in values)


def _refusal(keys: dict[str, Any]) -> str:
    try:
        get_train_args({**BASE, **keys})
    except ConfigError as error:
        return str(error)
    return ""


def other_values(hint: Any, default: Any, within: Range) -> list[Any]:
    """Return some values of a type that are not the default: all choices where they are listed, a number in range."""
    if get_origin(hint) is Literal:
        return [value for value in get_args(hint) if value != default]
    if get_args(hint) and get_origin(hint) not in (list, dict):
        return [value for option in get_args(hint) for value in other_values(option, default, within)]
    numbers = [number for number in (97, 4, 1, 0) if number in within and number != default][:1]
    shares = [number for number in (0.97, 0.3, 97.0) if number in within and number != default][:1]
    examples = {bool: [not default], int: numbers, float: shares, str: ["x"], list: [["x"]], dict: [{"x": 1}]}
    return examples.get(get_origin(hint) or hint, [])


def test_every_key_is_read_or_refused() -> None:
    assert silent_keys({**SECTIONS, **plugin_sections()}) - set(ALLOWED) - set(SAID) == set()


def test_the_lists_of_exceptions_are_short_and_needed() -> None:
    unread = silent_keys({**SECTIONS, **plugin_sections()})
    assert set(ALLOWED) | set(SAID) <= unread
    assert len(ALLOWED) <= 10


@pytest.mark.parametrize("section", ["model", "data", "training", "tuner lora"])
def test_a_key_that_nobody_reads_is_reported(section: str) -> None:
    """Also when other objects have an attribute of that name: ``config`` is in every file, and no key of ours."""
    invented = dataclasses.make_dataclass("Invented", [("invented", int, 1), ("config", int, 1)], frozen=True)
    assert set(unread_keys({section: invented})) == {"invented", "config"}


def test_a_refusal_that_is_taken_away_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unbuilt, "SECTIONS", {})
    assert silent_keys({"megatron": SECTIONS["megatron"]}) == set(keys_of(SECTIONS["megatron"]))


@pytest.mark.parametrize(
    ("code", "reads"),
    [
        ("args.data.cutoff_len", {("data", "cutoff_len")}),
        ("data = args.data\n data.cutoff_len", {("data", "cutoff_len")}),
        ("data, model = args.data, args.model\n model.flash_attn", {("model", "flash_attn")}),
        ("def g(args: DataArguments): return args.packing", {("data", "packing")}),
        ("def g(data: DataArguments):\n  for key in ('a', 'b'): getattr(data, key)", {("data", "a"), ("data", "b")}),
        ("args.keys.get('seed')", {(section, "seed") for section in SECTIONS}),
        ("model.seed; self.model.packing; seed; 'seed'", set()),
        ("replace(args.data, packing=True)", set()),
    ],
)
def test_what_counts_as_a_read(code: str, reads: set[tuple[str, str]]) -> None:
    assert reads_of(ast.parse(f"def f():\n {code}")) == reads


def test_a_name_holds_a_section_only_in_its_function() -> None:
    assert reads_of(ast.parse("def f(data: DataArguments): ...\ndef g(data): data.packing")) == set()


def test_what_an_object_holds_counts_in_all_its_methods() -> None:
    code = (
        "class A:\n def __init__(self, args: DataArguments): self.held = args\n def f(self): return self.held.packing"
    )
    assert reads_of(ast.parse(code)) == {("data", "packing")}


def test_what_transformers_reads_only_in_code_that_ours_replaces_does_not_count() -> None:
    reads = transformers_reads()
    assert {
        "learning_rate",
        "max_grad_norm",
        "log_level",
        "warmup_steps",
        "logging_first_step",
    } <= reads
    assert not {"prediction_loss_only", "eval_accumulation_steps", "dataloader_in_order", "length_column_name"} & reads
