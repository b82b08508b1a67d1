# SPDX-License-Identifier: Apache-2.0
"""The loss of each data set apart, against the loss of all and against each set trained alone."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from llamafactory.data.processor import SupervisedProcessor
from llamafactory.extras.errors import ConfigError

from .conftest import Keys
from .pairs import features
from .running import log_of, train, train_elsewhere


@pytest.fixture
def three(alpaca: Path, tmp_path: Path) -> dict[str, str]:
    """Three sets of different sizes and lengths."""
    rows = json.loads(alpaca.read_text("utf-8"))
    parts = {"a": rows[:25], "b+c": rows[25:40], "d": rows[40:]}
    for number, part in enumerate(parts.values()):
        (tmp_path / f"{number}.json").write_text(json.dumps(part))
    info = {name: {"file_name": f"{number}.json", "columns": {}} for number, name in enumerate(parts)}
    (tmp_path / "dataset_info.json").write_text(json.dumps(info))
    return {"dataset": ",".join(parts), "dataset_dir": str(tmp_path)}


def _channels(folder: Path) -> list[dict[str, float]]:
    found = [row for row in log_of(folder) if "loss" in row]
    return [{key.removeprefix("loss/"): row[key] for key in row if key.startswith("loss/")} for row in found]


# The whole set is one step.
_ONE_STEP: dict[str, Any] = {"max_steps": 1, "per_device_train_batch_size": 8, "gradient_accumulation_steps": 6}


def test_the_mean_of_the_channels_is_the_loss(keys: Keys, three: dict[str, str]) -> None:
    given = keys(**three, **_ONE_STEP, plot_loss=True)
    tokens: Counter[str] = Counter()
    for row in features(given, SupervisedProcessor()):
        tokens[row["source"]] += sum(label != -100 for label in row["labels"])
    folder = train(given)
    (channels,) = _channels(folder)
    assert list(channels) == ["a", "b+c", "d"] and len(set(channels.values())) == 3
    mean = sum(loss * tokens[name] for name, loss in channels.items()) / sum(tokens.values())
    assert mean == pytest.approx(log_of(folder)[0]["loss"], rel=1e-5)
    for name, loss in channels.items():
        alone = train(given | {"dataset": name, "output_dir": f"{folder}-alone", "overwrite_output_dir": True})
        assert log_of(alone)[0]["loss"] == pytest.approx(loss, rel=1e-5)
        assert _channels(alone) == [{}], "one set needs no second line"


@pytest.mark.parametrize(
    "more", [{"packing": True}, {"streaming": True}, {"streaming": True, "packing": True}], ids=str
)
def test_packed_and_streamed_channels_are_the_plain_ones(
    keys: Keys, three: dict[str, str], tmp_path: Path, more: dict[str, Any]
) -> None:
    plain = _channels(train(keys(**three, **_ONE_STEP, output_dir=str(tmp_path / "plain"))))
    (other,) = _channels(train(keys(**three, **_ONE_STEP, **more)))
    assert other == pytest.approx(plain[0], rel=1e-5)


@pytest.mark.slow
def test_channels_of_two_ranks_are_those_of_one(keys: Keys, three: dict[str, str], tmp_path: Path) -> None:
    one = train(keys(**three, max_steps=4, logging_steps=2, output_dir=str(tmp_path / "one")))
    given = keys(**three, max_steps=4, logging_steps=2, per_device_train_batch_size=2)
    done = train_elsewhere(given, ranks=2)
    assert done.returncode == 0, done.stderr[-2000:]
    expected, found = _channels(one), _channels(tmp_path / "run")
    assert len(expected) == 2
    for theirs, ours in zip(expected, found, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5)


def test_channels_are_drawn_and_can_be_turned_off(keys: Keys, three: dict[str, str]) -> None:
    folder = train(keys(**three, plot_loss=True))
    assert {"training_loss_a.png", "training_loss_b+c.png"} <= {path.name for path in folder.iterdir()}
    assert _channels(train(keys(**three, channel_loss=False, overwrite_output_dir=True))) == [{}] * 5
    with pytest.raises(ConfigError, match="channel_loss: only for stages pt"):
        train(keys(**three, channel_loss=True, stage="dpo", overwrite_output_dir=True))
