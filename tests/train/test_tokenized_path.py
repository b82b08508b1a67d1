# SPDX-License-Identifier: Apache-2.0
"""``train`` with a new ``tokenized_path`` prepares and stops; with one that is there it trains."""

from __future__ import annotations

from pathlib import Path

import pytest

from .conftest import Keys
from .running import assert_bit_equal, train, train_elsewhere


def test_the_first_run_prepares_and_the_second_trains(
    keys: Keys, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["llamafactory-cli", "train", "my.yaml"])
    folder = tmp_path / "tokens"
    given = keys(max_steps=2, tokenized_path=str(folder))
    run = train(given)
    printed = capsys.readouterr().out
    assert f"{folder}; nothing is trained yet.\nNext:\n  llamafactory-cli train" in printed
    assert (folder / "dataset_dict.json").is_file() and not (run / "adapter_model.safetensors").exists()
    assert_bit_equal(train(given), train(keys(max_steps=2, output_dir=str(tmp_path / "without"))))


def test_no_rank_trains_while_another_stops(keys: Keys, tmp_path: Path) -> None:
    folder = tmp_path / "tokens"
    given = keys(max_steps=2, tokenized_path=str(folder))
    first = train_elsewhere(given, ranks=2, restarts=1, KILL_PREPARED="1")  # the second attempt finds the folder
    assert first.returncode == 0, first.stderr[-2000:]
    assert first.stdout.count("nothing is trained yet") == 1
    assert folder.is_dir() and not list(Path(given["output_dir"]).glob("*.safetensors"))
    second = train_elsewhere(given, ranks=2)
    assert second.returncode == 0, second.stderr[-2000:]
    assert list(Path(given["output_dir"]).glob("*.safetensors"))
