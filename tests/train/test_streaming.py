# SPDX-License-Identifier: Apache-2.0
"""A streaming run trains on what a run that encodes first trains on, and is resumed where it was."""

from __future__ import annotations

import json
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from llamafactory.data.streaming import rows as streaming
from llamafactory.extras.errors import ConfigError

from .conftest import Keys
from .pairs import judged_set, pair_set
from .running import curve, log_of, record_batches, recorded_rows, train, train_elsewhere, weights_of

Rows = list[tuple[tuple[int, ...], tuple[int, ...]]]
_EPOCHS = {"max_steps": -1, "num_train_epochs": 2, "lora_rank": 2}


def _trained(path: Path, given: dict[str, Any]) -> Rows:
    undo = record_batches(path)
    try:
        train(given)
    finally:
        undo()
    return recorded_rows(path)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 10 rows, so that 48 rows make several."""
    monkeypatch.setattr(streaming, "BLOCK_ROWS", 10)
    monkeypatch.setattr(streaming, "PACKED_BLOCK_ROWS", 10)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("more", [{}, {"packing": True}, {"dataloader_num_workers": 2}], ids=str)
def test_two_epochs_have_each_row_twice_and_end_by_themselves(keys: Keys, tmp_path: Path, more: dict[str, Any]) -> None:
    more = more | {"gradient_accumulation_steps": 3}
    expected = _trained(tmp_path / "map", keys(**_EPOCHS, output_dir=str(tmp_path / "a"), **more))
    found = _trained(tmp_path / "stream", keys(**_EPOCHS, output_dir=str(tmp_path / "b"), streaming=True, **more))
    assert Counter(found) == Counter(expected) and set(Counter(found).values()) == {2}
    half = len(found) // 2
    assert Counter(found[:half]) == Counter(found[half:]) and found[:half] != found[half:]
    last = log_of(tmp_path / "b")[-1]
    assert last["epoch"] == 2 and last["percentage"] == 100 and last["current_steps"] == last["total_steps"]
    assert 0 <= last["data_wait"] <= 1


@pytest.mark.usefixtures("small_blocks")
def test_rows_that_are_dropped_shorten_the_epoch(keys: Keys, tmp_path: Path) -> None:
    """An epoch has fewer steps than the first block made it look; a step more would train on nothing."""
    rows = [{"instruction": f"q {n}", "output": f"{n}" if n < 20 or n % 2 else ""} for n in range(60)]
    (tmp_path / "holes.json").write_text(json.dumps(rows))
    given = keys(**_EPOCHS, dataset=str(tmp_path / "holes.json"), streaming=True, disable_shuffling=True)
    found = _trained(tmp_path / "rows", given)
    assert len(set(found)) == 40 and len(found) == 80
    log = log_of(tmp_path / "run")
    assert [row["current_steps"] for row in log if "loss" in row] == list(range(1, 21))
    assert log[-1]["total_steps"] == 20


def test_a_part_of_an_epoch(keys: Keys, tmp_path: Path) -> None:
    found = _trained(tmp_path / "rows", keys(**_EPOCHS | {"num_train_epochs": 1.5}, streaming=True))
    assert sorted(Counter(found).values()) == [1] * 24 + [2] * 24
    assert log_of(tmp_path / "run")[-1]["epoch"] == 1.5


@pytest.mark.slow
@pytest.mark.parametrize("packing", [False, True])
def test_two_ranks_see_each_row_once_an_epoch(keys: Keys, tmp_path: Path, packing: bool) -> None:
    """47 rows do not go round; one rank runs out first, and nobody waits for it for ever."""
    more = {"max_samples": 47, "packing": packing, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    expected = _trained(tmp_path / "map", keys(**_EPOCHS, output_dir=str(tmp_path / "a"), **more))
    given = keys(**_EPOCHS, output_dir=str(tmp_path / "b"), streaming=True, dataloader_num_workers=1, **more)
    done = train_elsewhere(given, ranks=2, RECORD=str(tmp_path / "stream"))
    assert done.returncode == 0, done.stderr[-2000:]
    assert Counter(recorded_rows(tmp_path / "stream")) == Counter(expected)


@pytest.mark.slow
def test_two_ranks_and_one_take_the_same_steps(keys: Keys, tmp_path: Path) -> None:
    """Where no row is dropped or packed a step has the same rows however it is cut."""
    given = keys(streaming=True, max_steps=4, output_dir=str(tmp_path / "one"))
    one = train(given)
    given |= {"output_dir": str(tmp_path / "two"), "per_device_train_batch_size": 2}
    done = train_elsewhere(given, ranks=2)
    assert done.returncode == 0, done.stderr[-2000:]
    for (step, loss, norm), other in zip(curve(one), curve(tmp_path / "two"), strict=True):
        assert (step, loss, norm) == pytest.approx(other, rel=1e-4)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize(
    "more", [{"packing": True}, pytest.param({"dataloader_num_workers": 2}, marks=pytest.mark.slow)], ids=str
)
def test_five_steps_and_kill_and_five_are_ten(keys: Keys, tmp_path: Path, more: dict[str, Any]) -> None:
    """Over an epoch border, with a checkpoint inside a block; blocks that were trained on are not made again."""
    long = {"save_strategy": "steps", "save_steps": 5, "lora_dropout": 0.2, "max_steps": 10, "logging_steps": 3}
    settings = keys(**long | {"per_device_train_batch_size": 3 if "packing" not in more else 1}, streaming=True, **more)
    whole = train(settings | {"output_dir": str(tmp_path / "whole")})
    killed = train_elsewhere(settings, KILL_AT="7", BLOCK_ROWS="10")
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-2000:]
    run = Path(settings["output_dir"])
    position = json.loads((run / "checkpoint-5" / "stream-0.json").read_text())
    assert position["block"] > 0
    train(settings)
    theirs = weights_of(whole)
    assert all(torch.equal(weight, theirs[name]) for name, weight in weights_of(run).items())
    assert curve(whole) == curve(run)
    assert [row["epoch"] for row in log_of(whole)] == [row["epoch"] for row in log_of(run)]


@pytest.mark.slow
def test_a_run_killed_after_an_epoch_s_checkpoint_goes_on_with_the_next_epoch(keys: Keys, tmp_path: Path) -> None:
    settings = keys(streaming=True, **_EPOCHS, save_strategy="epoch", lora_dropout=0.2)
    whole = train(settings | {"output_dir": str(tmp_path / "whole")})
    killed = train_elsewhere(settings, KILL_AT="14")
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-2000:]
    run = Path(settings["output_dir"])
    position = json.loads((run / "checkpoint-12" / "stream-0.json").read_text())
    assert position == {"epoch": 1, "block": 0, "row": 0, "ranks": 1}
    train(settings)
    theirs = weights_of(whole)
    assert all(torch.equal(weight, theirs[name]) for name, weight in weights_of(run).items())
    assert curve(whole) == curve(run)


def test_a_checkpoint_of_other_batches_is_refused(keys: Keys, tmp_path: Path) -> None:
    settings = keys(max_steps=2, save_strategy="steps", save_steps=1)
    train(settings)
    with pytest.raises(ConfigError, match=r"^resume_from_checkpoint: .*checkpoint-2 has no stream-0.json"):
        train(settings | {"streaming": True, "max_steps": 4, "resume_changed": True})


@pytest.mark.parametrize("stage", ["pt", "rm", "dpo", "kto"])
def test_every_stage_streams(keys: Keys, tmp_path: Path, stage: str) -> None:
    data = {"dpo": pair_set, "rm": pair_set, "kto": judged_set}
    given = keys(stage=stage, streaming=True, **_EPOCHS, val_size=8, eval_strategy="epoch")
    if stage == "pt":
        (tmp_path / "text.txt").write_text("".join(f"line {n} of rain\n" for n in range(40)))
        given["dataset"] = str(tmp_path / "text.txt")
    else:
        given |= data[stage](tmp_path)
    log = log_of(train(given))
    assert [row["epoch"] for row in log if "eval_loss" in row] == [1, 2]


@pytest.mark.parametrize("workers", [pytest.param(0, marks=pytest.mark.slow), 2])
def test_a_broken_row_is_named_while_training(keys: Keys, tmp_path: Path, workers: int) -> None:
    good = json.dumps({"instruction": "q", "output": "a"})
    path = tmp_path / "broken.jsonl"
    path.write_text("\n".join([good] * 100 + ['{"instruction": 7, "output": "x"}'] + [good] * 20))
    given = keys(dataset=str(path), streaming=True, max_steps=40, disable_shuffling=True, lora_rank=1, logging_steps=99)
    done = train_elsewhere(given | {"dataloader_num_workers": workers, "cutoff_len": 32}, BLOCK_ROWS="20")
    assert done.returncode == 1
    assert f"error: {path} line 101: field 'instruction'" in done.stderr
