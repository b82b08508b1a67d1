# SPDX-License-Identifier: Apache-2.0
"""Configurations of axolotl, ms-swift and the v1 engine mean what a person would write for them here."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from llamafactory.extras.errors import ConfigError
from llamafactory.hparams import get_train_args
from llamafactory.hparams.convert_config import run_convert_config
from llamafactory.hparams.dialects import DIALECTS, recognize, translate
from llamafactory.hparams.schema import known_keys
from tests.dialect_files import FILES, theirs_and_ours, write_data


def _meaning(keys: dict[str, Any]) -> dict[str, Any]:
    found = asdict(get_train_args(keys))
    del found["keys"]
    return found


@pytest.mark.parametrize("title", FILES)
def test_a_file_means_what_is_written_by_hand(
    title: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "1")
    write_data(tmp_path)
    name, theirs, ours = theirs_and_ours(title, "org/model", str(tmp_path))
    file = tmp_path / "theirs.yaml"
    file.write_text(theirs)
    assert recognize(yaml.safe_load(theirs)) == name
    run_convert_config([str(file)])
    shown = capsys.readouterr()
    assert "without a counterpart" not in shown.err and "train would say" not in shown.err, shown.err
    assert _meaning(yaml.safe_load(shown.out)) == _meaning(ours)
    if name == "v1":  # it is read as it stands
        assert _meaning(yaml.safe_load(theirs)) == _meaning(ours)
    else:
        with pytest.raises(ConfigError, match=rf"^a configuration of {DIALECTS[name].title}; .*convert-config"):
            get_train_args([str(file)])


def test_no_file_of_ours_bears_a_mark_of_another_program() -> None:
    for name, dialect in DIALECTS.items():
        assert not dialect.marks & known_keys(), name


def test_every_rule_leads_to_a_key_of_ours() -> None:
    known = known_keys()
    for name, dialect in DIALECTS.items():
        renamed = {key: rule for key, rule in dialect.rules.items() if isinstance(rule, str)}
        assert {key: rule for key, rule in renamed.items() if rule not in known} == {}, name
        assert set(dialect.defaults({"output_dir": "x"})) <= known, name


@pytest.mark.parametrize(
    ("name", "values", "key"),
    [
        ("axolotl", {"base_model": "m", "xformers_attention": True}, "xformers_attention"),
        ("axolotl", {"base_model": "m", "special_tokens": {"pad_token": "x"}}, "special_tokens"),
        ("axolotl", {"base_model": "m", "datasets": [{"path": "a", "type": "my.own"}]}, "datasets"),
        ("axolotl", {"base_model": "m", "optimizer": "came_pytorch"}, "optimizer"),
        ("axolotl", {"base_model": "m", "no_such_key": 3}, "no_such_key"),
        ("swift", {"model": "m", "train_type": "reft"}, "train_type"),
        ("swift", {"model": "m", "loss_scale": "react"}, "loss_scale"),
        ("swift", {"model": "m", "beta": 0.1}, "beta"),
        ("v1", {"model": "m", "optim_config": {"name": "dion"}}, "optim_config"),
        ("v1", {"model": "m", "cp_mode": "ring"}, "cp_mode"),
        ("v1", {"model": "m", "model_class": "cls"}, "model_class"),
    ],
)
def test_what_has_no_counterpart_is_said(name: str, values: dict[str, Any], key: str) -> None:
    found = translate(values, name, known_keys().__contains__)
    assert list(found.absent) == [key] and found.absent[key]


def test_a_value_of_another_shape_is_one_line() -> None:
    with pytest.raises(ConfigError, match=r"^datasets: 'a' is not what this program's files hold there$"):
        translate({"datasets": "a"}, "axolotl", known_keys().__contains__)
    with pytest.raises(
        ConfigError, match=r"^global_batch_size: 3 is no multiple of micro_batch_size 2 times 1 process$"
    ):
        get_train_args({"model": "m", "train_dataset": "d", "micro_batch_size": 2, "global_batch_size": 3})
    with pytest.raises(ConfigError, match=r"^optim_config: expected muon"):
        get_train_args({"model": "m", "train_dataset": "d", "optim_config": {"name": "x"}})


def test_use_v1_reads_a_file_as_the_engine_would(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {"model_name_or_path": "m", "dataset": "d", "output_dir": "out", "template": "chatml"}
    assert get_train_args(keys | {"do_train": True}).training.learning_rate == 5e-5
    monkeypatch.setenv("USE_V1", "1")
    assert get_train_args(keys).training.learning_rate == 1e-4
