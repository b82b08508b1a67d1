# SPDX-License-Identifier: Apache-2.0
"""Checkpoints that are written beside training are those that would be written between two steps."""

from __future__ import annotations

import resource
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from llamafactory.extras.errors import ConfigError
from llamafactory.train.saving import background

from .conftest import Keys
from .running import assert_bit_equal, first_half, train, train_elsewhere
from .test_fsdp import FULL, assert_same

SAVING = {"async_save": True, "max_steps": 6, "save_strategy": "steps", "save_steps": 2}


def same_checkpoint(one: Path, other: Path) -> None:
    """The same files with the same tensors."""
    ours, theirs = (sorted(path.relative_to(run) for path in run.rglob("*") if path.is_file()) for run in (one, other))
    assert ours == theirs
    for name in ours:
        if name.suffix == ".safetensors":
            first, second = load_file(one / name), load_file(other / name)
            assert first.keys() == second.keys()
            assert all(torch.equal(first[key], second[key]) for key in first), name
        elif name.name in ("optimizer.pt", "scheduler.pt"):
            first, second = (torch.load(run / name, weights_only=True) for run in (one, other))
            assert str(first) == str(second)


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_what_is_written_is_of_its_own_step(
    keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Each save is held up until training has gone on; the older checkpoint is there as long as the newer is not."""
    given = keys(finetuning_type=kind, **SAVING, save_total_limit=1)
    one = train(given | {"async_save": False, "output_dir": str(tmp_path / "one")})
    plain, seen = background.Background._run, []

    def late(self: Any, tasks: Any, final: Path) -> None:
        seen.append((final.name, sorted(path.name for path in final.parent.glob("checkpoint-*"))))
        moved.wait(20)
        plain(self, tasks, final)

    class Moving(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            moved.clear()

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            moved.set()

    moved = threading.Event()
    monkeypatch.setattr(background.Background, "_run", late)
    other = train(given | {"output_dir": str(tmp_path / "beside")}, [Moving()])
    assert [name for name, _ in seen] == ["checkpoint-2", "checkpoint-4", "checkpoint-6"]
    assert [there for _, there in seen] == [[], ["checkpoint-2"], ["checkpoint-4"]]
    same_checkpoint(one / "checkpoint-6", other / "checkpoint-6")
    assert_bit_equal(one, other)
    assert not list(other.glob(".staging*"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lora", "full"])
def test_parts_of_a_sharded_model(keys: Keys, tmp_path: Path, kind: str) -> None:
    """Killed later, the run goes on with another number of processes from what was written beside it."""
    given = keys(finetuning_type=kind, **SAVING, **FULL, per_device_train_batch_size=2)
    runs = [tmp_path / "one", tmp_path / "beside"]
    for place in runs:
        done = train_elsewhere(given | {"async_save": place == runs[1], "output_dir": str(place)}, ranks=2)
        assert done.returncode == 0, done.stderr[-3000:]
    same_checkpoint(runs[0] / "checkpoint-4", runs[1] / "checkpoint-4")
    assert_bit_equal(*runs)
    first_half(runs[1], tmp_path / "half", 6)
    more = {"output_dir": str(tmp_path / "half"), "per_device_train_batch_size": 1}
    done = train_elsewhere(given | more, ranks=4)
    assert done.returncode == 0 and "resuming from" in done.stderr, done.stderr[-3000:]
    assert_same(runs[0], tmp_path / "half")


@pytest.mark.parametrize("beside", [False, True], ids=["sync", "async"])
def test_a_disk_that_takes_no_more(keys: Keys, tmp_path: Path, beside: bool) -> None:
    """The system allows no file as large as the optimizer's state any more once the first checkpoint is there."""
    given = keys(finetuning_type="full", **SAVING | {"async_save": beside})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    class Fill(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 3:
                while not (tmp_path / "run" / "checkpoint-2").exists():
                    time.sleep(0.01)
                resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, before[1]))

    line = r"checkpoint-4.*: .*; checkpoint-4 is not saved, the newest whole one is checkpoint-2$"
    try:
        with pytest.raises(ConfigError, match=line):
            train(given, [Fill()])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in (tmp_path / "run").glob("checkpoint-*")] == ["checkpoint-2"]
    again = train(given)
    one = train(given | {"output_dir": str(tmp_path / "one")})
    assert_bit_equal(one, again)
