# SPDX-License-Identifier: Apache-2.0
"""The JSON schema of a configuration, judged by a validator that is not ours."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml

from llamafactory.hparams.json_schema import json_schema

EXAMPLES = Path(__file__).parents[2] / "examples"
OTHER = ("accelerate", "clusters", "v1", "tokens_cfg.yaml")  # files of launchers, of another dialect, of a key
FILES = sorted(path for path in EXAMPLES.rglob("*.yaml") if not {*path.parts} & {*OTHER})
VALIDATOR = jsonschema_rs.Draft7Validator(json_schema())


def test_every_example_is_valid_and_names_the_schema() -> None:
    assert len(FILES) > 50
    for path in FILES:
        text = path.read_text()
        place = os.path.relpath(EXAMPLES / "schema.json", path.parent)
        named = text.splitlines()[0].removeprefix("# yaml-language-server: $schema=")
        assert os.path.normpath(named) == place, path
        assert [error.message for error in VALIDATOR.iter_errors(yaml.safe_load(text))] == [], path


def test_the_file_beside_the_examples_is_the_schema() -> None:
    written = json.loads((EXAMPLES / "schema.json").read_text())
    assert written == json_schema(), "llamafactory-cli schema > examples/schema.json"


@pytest.mark.parametrize(
    "wrong",
    [
        {"lora_rnak": 8},
        {"lora_rank": "many"},
        {"learning_rate": -1},
        {"stage": 3},
        {"overlong": "cut"},
        {"quantization_bit": 3.5},
        {"do_train": "perhaps"},
        {"val_size": -0.1},
        {"reward_model_quantization_bit": 5},
    ],
)
def test_a_wrong_value_is_none(wrong: dict[str, Any]) -> None:
    assert not VALIDATOR.is_valid(wrong)


@pytest.mark.parametrize(
    "right",
    [
        {"dataset": "a,b"},
        {"dataset": ["a", "b"]},
        {"val_size": 100, "threads": "auto"},
        {"threads": 4, "fsdp": "full_shard"},
        {"fsdp": ["full_shard"], "deepspeed": {"a": 1}},
        {"reward_model_quantization_bit": 4, "ref_model_quantization_bit": None},
        {"warmup_ratio": 0.1, "max_steps": -1},
    ],
)
def test_what_a_run_takes_is_valid(right: dict[str, Any]) -> None:
    assert VALIDATOR.is_valid(right), [error.message for error in VALIDATOR.iter_errors(right)]
