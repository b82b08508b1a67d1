# SPDX-License-Identifier: Apache-2.0
"""A checkpoint that is not whole is named, and nothing goes on from it as if it were."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from llamafactory.extras.errors import ConfigError
from llamafactory.train.saving.checkpoints import checkpoints, resume_point

from .conftest import SAVED, Keys, Saved
from .running import assert_bit_equal, copied, rates_of, train, train_elsewhere

_FILES = (
    "adapter_config.json", "adapter_model.safetensors", "chat_template.jinja", "checkpoint_files.json", "optimizer.pt",
    "rng_state.pth", "run_config.json", "scheduler.pt", "tokenizer.json", "tokenizer_config.json",
    "trainer_state.json",
)  # fmt: skip


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _zero(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def test_the_table_names_every_file(saved: Saved) -> None:
    found = {path.name for path in (saved[1] / "checkpoint-6").iterdir()}
    assert found - {"README.md", "special_tokens_map.json"} == set(_FILES)


@pytest.mark.parametrize("spoil", [_cut, _zero, Path.unlink], ids=["cut", "zeroed", "removed"])
@pytest.mark.parametrize("name", _FILES)
def test_a_damaged_checkpoint_is_named(
    saved: Saved,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    name: str,
    spoil: Callable[[Path], None],
) -> None:
    """The newest whole one is taken by itself, and proposed where the damaged one was asked for."""
    run = tmp_path / "run"
    copied(saved, run)
    spoil(run / "checkpoint-6" / name)
    assert resume_point(str(run), None, False) == run / "checkpoint-3"
    said = [line for line in capfd.readouterr().err.splitlines() if "checkpoint-6 is damaged" in line]
    assert len(said) == 1 and name in said[0] and "checkpoint-3" in said[0]
    assert resume_point(str(run), "true", False) == run / "checkpoint-3"
    if (name, spoil) != ("trainer_state.json", Path.unlink):
        with pytest.raises(
            ConfigError, match=rf"checkpoint-6 is damaged \({name}.*\); the newest whole .*checkpoint-3$"
        ):
            resume_point(str(run), str(run / "checkpoint-6"), False)
    spoil(run / "checkpoint-3" / name)
    with pytest.raises(ConfigError, match=r"has no whole checkpoint: .*; overwrite_output_dir: true starts anew"):
        resume_point(str(run), None, False)


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "optimizer.pt", "trainer_state.json"])
@pytest.mark.parametrize("spoil", [_cut, _zero], ids=["cut", "zeroed"])
def test_an_older_damaged_checkpoint_is_named(
    saved: Saved, tmp_path: Path, name: str, spoil: Callable[[Path], None]
) -> None:
    run = tmp_path / "run"
    copied(saved, run)
    for listing in ("run_config.json", "checkpoint_files.json"):
        (run / "checkpoint-6" / listing).unlink()
    spoil(run / "checkpoint-6" / name)
    assert resume_point(str(run), None, False) == run / "checkpoint-3"


def test_after_damage_the_run_ends_as_if_nothing_had_been(saved: Saved, tmp_path: Path) -> None:
    """With room for one checkpoint: the new ones stay, not the damaged one with the higher number."""
    run = tmp_path / "run"
    settings = copied(saved, run)
    (run / "checkpoint-6" / "optimizer.pt").unlink()
    train(settings | {"save_total_limit": 1, "save_steps": 5})
    assert_bit_equal(saved[1], run)
    assert [path.name for path in checkpoints(run)] == ["checkpoint-6"]
    assert resume_point(str(run), None, False) == run / "checkpoint-6"


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_without_its_state_nothing_goes_on_as_if_it_were_there(saved: Saved, tmp_path: Path, name: str) -> None:
    settings = copied(saved, tmp_path / "run") | {"max_steps": 8}
    for gone in ("run_config.json", "checkpoint_files.json", name):
        (tmp_path / "run" / "checkpoint-6" / gone).unlink()
    with pytest.raises(ConfigError, match=f"checkpoint-6 has no {name}.*resume_changed: true"):
        train(settings)
    train(settings | {"resume_changed": True})
    assert rates_of(tmp_path / "run")[7] == pytest.approx(1e-3 * 2 / 8) and max(rates_of(tmp_path / "run")) == 8


def test_weights_alone_are_no_checkpoint_to_go_on_from(keys: Keys) -> None:
    settings = keys(**SAVED, save_only_model=True)
    train(settings)
    train(settings)  # all was done before
    with pytest.raises(ConfigError, match=r"checkpoint-6 has no optimizer.pt.*save_only_model"):
        train(settings | {"max_steps": 8})


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rng_state_1.pth", "stream-1.json"])
def test_all_ranks_go_on_from_the_same_checkpoint(keys: Keys, name: str) -> None:
    """A file that only the second process reads is damaged."""
    settings = keys(max_steps=4, save_strategy="steps", save_steps=2, streaming=True)
    first = train_elsewhere(settings, ranks=2)
    assert first.returncode == 0, first.stderr[-2000:]
    run = Path(settings["output_dir"])
    _cut(run / "checkpoint-4" / name)
    again = train_elsewhere(settings | {"max_steps": 5}, ranks=2)
    assert again.returncode == 0, again.stderr[-2000:]
    assert f"checkpoint-4 is damaged ({name}" in again.stderr
    assert f"resuming from {run / 'checkpoint-2'}" in again.stderr
    assert max(rates_of(run)) == 5
