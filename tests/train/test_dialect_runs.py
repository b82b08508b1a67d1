# SPDX-License-Identifier: Apache-2.0
"""Configurations of other programs train as what a person would write for them here: the same losses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from llamafactory.hparams.convert_config import run_convert_config
from llamafactory.train.tuner import run_exp
from tests.dialect_files import FILES, theirs_and_ours, write_data

QUICK = {"max_steps": 2, "logging_steps": 1, "save_strategy": "no", "use_cpu": True, "disable_tqdm": True,
         "flash_attn": "auto", "report_to": "none", "bf16": False}  # fmt: skip
TRAINED = list(FILES)[:10]
ROWS = [pytest.param(title, marks=() if at == 0 else pytest.mark.slow) for at, title in enumerate(TRAINED)]


@pytest.mark.parametrize("title", ROWS)
def test_two_steps_have_the_same_losses(
    title: str, tiny_llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    write_data(tmp_path)
    _, theirs, ours = theirs_and_ours(title, str(tiny_llama), str(tmp_path))
    (tmp_path / "theirs.yaml").write_text(theirs)
    run_convert_config([str(tmp_path / "theirs.yaml")])
    converted = yaml.safe_load(capsys.readouterr().out)

    def losses(keys: dict[str, Any], name: str) -> list[float]:
        folder = tmp_path / name
        run_exp({**keys, **QUICK, "output_dir": str(folder)})
        history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
        return [row["loss"] for row in history if "loss" in row]

    found = losses(converted, "converted")
    assert len(found) == 2 and found == losses(ours, "by_hand")
