# SPDX-License-Identifier: Apache-2.0
"""``docs/support.md`` has a row for everything that there is, and names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from llamafactory import plugins
from llamafactory.hparams import unbuilt
from llamafactory.hparams.args import SHARED_SECTIONS, TRAINING_SECTIONS
from llamafactory.hparams.schema import keys_of

ROOT = Path(__file__).parents[1]
SECTIONS = [*SHARED_SECTIONS.values(), *TRAINING_SECTIONS.values()]
PAGE = (ROOT / "docs" / "support.md").read_text("utf-8")
ROWS = {
    title: [[cell.strip() for cell in line.strip("|").split("|")] for line in body.splitlines() if line[:2] == "| "][1:]
    for title, body in re.findall(r"^## (.*)\n((?:.|\n)*?)(?=^## |\Z)", PAGE, re.M)
}


def names(title: str, prefix: str = "") -> list[str]:
    """The names in the first column of a table."""
    [rows] = [found for heading, found in ROWS.items() if heading.startswith(title)]
    return [name for row in rows if row[0].startswith(prefix) for name in re.findall(r"`([^`]+)`", row[0])]


@pytest.mark.parametrize(
    ("kind", "title", "prefix"),
    [
        ("tuners", "Methods", ""),
        ("stages", "Stages", ""),
        ("quantizers", "Quantizers", ""),
        ("optimizers", "Optimizers", ""),
        ("engines", "Engines", "engine"),
        ("rollouts", "Engines", "rollout"),
    ],
)
def test_every_row_of_a_table_is_on_the_page_once(kind: str, title: str, prefix: str) -> None:
    assert sorted(names(title, prefix)) == sorted(plugins.TABLES[kind])


def test_formats_and_memory_are_keys() -> None:
    known = {key for section in SECTIONS for key in keys_of(section)}
    listed = [*names("Number formats"), *names("Memory")]
    assert len(listed) > 15 and len(set(listed)) == len(listed) and set(listed) <= known
    precision = ("bf16", "fp16", "pure_bf16", "fp8", "stochastic_rounding")
    memory = [
        key for key in known if key.startswith(("activation_", "upcast_", "use_unsloth", "enable_liger", "stream_l"))
    ]
    kwargs = {"activation_checkpointing_kwargs"}
    assert {*precision, *memory} - kwargs <= set(listed)


def test_what_is_not_built_is_what_the_program_refuses() -> None:
    refused = {key for key, _, _ in (*unbuilt.ALWAYS, *unbuilt.TRAINING)}
    listed = {name for row in ROWS["Backends"] if row[1] == "not built" for name in re.findall(r"`([^`]+)`", row[0])}
    assert listed and listed <= refused
    assert not plugins.BACKENDS, "a backend needs a row"
    assert all(part in PAGE for part in unbuilt.SECTIONS.values())


@pytest.mark.parametrize(
    "row", [row for rows in ROWS.values() for row in rows if len(row) == 4], ids=lambda row: row[0]
)
def test_a_row_says_its_state_and_names_tests_that_exist(row: list[str]) -> None:
    assert re.search(r"^(runs|API|refused|not built)|not built$", row[1]), row[1]
    tests = re.findall(r"`(tests/[^`]+)`", row[2])
    assert tests
    for path, _, function in (test.partition("::") for test in tests):
        text = (ROOT / path).read_text("utf-8")
        assert f"\ndef {function or 'test_'}" in text, (path, function)
