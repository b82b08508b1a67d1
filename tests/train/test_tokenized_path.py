# SPDX-License-Identifier: Apache-2.0
"""``train`` with a new ``tokenized_path`` prepares and stops; with one that is there it trains."""

from __future__ import annotations

from pathlib import Path

import pytest

from llamafactory.train.process_group import said_first

from .conftest import Keys
from .running import assert_bit_equal, curve, train, train_elsewhere


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


@pytest.mark.slow
def test_no_rank_trains_while_another_stops(keys: Keys, tmp_path: Path) -> None:
    folder = tmp_path / "tokens"
    given = keys(max_steps=2, tokenized_path=str(folder))
    first = train_elsewhere(given, ranks=2, restarts=1, KILL_PREPARED="1")  # the second attempt finds the folder
    assert first.returncode == 0, first.stderr[-2000:]
    assert first.stdout.count("nothing is trained yet") == 1
    assert folder.is_dir() and not list(Path(given["output_dir"]).glob("*.safetensors"))
    assert list(train(given).glob("*.safetensors"))


@pytest.mark.parametrize("first", [True, False])
def test_workers_started_anew_do_what_their_launch_set_out_to_do(monkeypatch: pytest.MonkeyPatch, first: bool) -> None:
    from torch.distributed import TCPStore

    assert [said_first("x", mine) for mine in (True, False)] == [True, False]  # no torchrun, no store
    agent = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # as torchrun's agent keeps one
    worker = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(agent.port), "RANK": "0", "WORLD_SIZE": "1"}
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    for name, value in worker.items():
        monkeypatch.setenv(name, value)
    for attempt, mine in enumerate([first, not first, not first]):
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", str(attempt))
        assert said_first("x", mine) is first


def test_packs_made_elsewhere_are_trained_as_the_sequences_they_hold(keys: Keys, tmp_path: Path) -> None:
    from datasets import Dataset

    texts = [list(range(20, 20 + size)) for size in (7, 12, 5, 9)]
    rows = [{"input_ids": ids, "labels": ids} for ids in texts]
    joined = [token for ids in texts for token in ids]
    positions = [place for ids in texts for place in range(len(ids))]
    Dataset.from_list(rows).save_to_disk(tmp_path / "apart")
    pack = {"input_ids": joined, "labels": joined, "position_ids": positions}
    Dataset.from_list([pack]).save_to_disk(tmp_path / "pack")

    def first_step(name: str, size: int) -> list[float]:
        given = {"tokenized_path": str(tmp_path / name), "output_dir": str(tmp_path / f"{name}-run")}
        return list(curve(train(keys(**given, max_steps=1, per_device_train_batch_size=size)))[0])

    assert first_step("pack", 1) == pytest.approx(first_step("apart", 4), rel=1e-5)
