# SPDX-License-Identifier: Apache-2.0
"""Mixes against their definitions, counted."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llamafactory.data.sources.mixing import mix
from llamafactory.extras.errors import ConfigError
from llamafactory.train.batching.batches import MicroBatches

from .conftest import Prepare, write_jsonl


def test_concat_keeps_sets_one_after_the_other() -> None:
    source, row = mix([2, 3], "concat", None, seed=0)
    assert (source.tolist(), row.tolist()) == ([0, 0, 1, 1, 1], [0, 1, 0, 1, 2])


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ("interleave_under", "a0 b0 a1"),
        ("interleave_over", "a0 b0 a1 b1 a0 b2 a1 b3"),
        ("interleave_once", "a0 b0 a1 b1 b2 b3"),
    ],
)
def test_in_turn_without_weights(strategy: str, expected: str) -> None:
    source, row = mix([2, 4], strategy, None, seed=0)
    assert " ".join(f"{'ab'[s]}{r}" for s, r in zip(source, row, strict=True)) == expected


@pytest.mark.parametrize("strategy", ["interleave_under", "interleave_over"])
def test_realised_shares_are_within_one_percent_of_the_asked(strategy: str) -> None:
    weights = [7, 2, 1]  # need not sum to 1
    source, _ = mix([60_000, 60_000, 60_000], strategy, weights, seed=1)
    shares = np.bincount(source) / len(source)
    assert shares == pytest.approx([0.7, 0.2, 0.1], abs=0.01)


def test_under_stops_with_the_first_set_and_over_with_the_last() -> None:
    source, row = mix([50, 1000], "interleave_under", [0.5, 0.5], seed=3)
    assert (source == 0).sum() == 50
    assert source[-1] == 0
    source, row = mix([50, 1000], "interleave_over", [0.5, 0.5], seed=3)
    assert (source == 1).sum() == 1000
    assert source[-1] == 1
    assert set(row[source == 0]) == set(range(50)), "the small set starts again from its first row"
    assert (source == 0).sum() > 900


def test_once_takes_every_row_once_at_the_asked_odds_while_both_last() -> None:
    sizes = [3000, 20_000]
    source, row = mix(sizes, "interleave_once", [0.75, 0.25], seed=5)
    for number, size in enumerate(sizes):
        assert row[source == number].tolist() == list(range(size))
    both = source[: np.flatnonzero(source == 0)[-1]]
    assert (both == 0).mean() == pytest.approx(0.75, abs=0.03)


def test_a_seed_gives_one_order() -> None:
    first, again, other = (mix([90, 90], "interleave_under", [0.5, 0.5], seed)[0].tolist() for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize("weights", [[1.0], [1.0, 0.0], [1.0, -2.0], [float("nan"), 1.0]])
def test_wrong_weights_are_refused(weights: list[float]) -> None:
    with pytest.raises(ConfigError, match="interleave_probs"):
        mix([3, 3], "interleave_under", weights, seed=0)


def listed(tmp_path: Path, **options: Any) -> None:
    columns = {"prompt": "instruction", "query": "input", "response": "output"}
    for name, number in (("a", 6000), ("b", 6000), ("c", 30)):
        write_jsonl(tmp_path / f"{name}.jsonl", [{"instruction": f"{name}{i}", "output": "x"} for i in range(number)])
    entry = {"columns": {key: value for key, value in columns.items() if key != "query"}}
    entries = {name: {"file_name": f"{name}.jsonl", **entry, **options.get(name, {})} for name in "abc"}
    (tmp_path / "dataset_info.json").write_text(json.dumps(entries))


def test_weights_of_the_entries_are_realised_within_one_percent(prepare: Prepare, tmp_path: Path) -> None:
    listed(tmp_path, a={"weight": 14}, b={"weight": 6})
    module = prepare(dataset="a,b", mix_strategy="interleave_over")
    counts = Counter(module.train["source"])
    assert counts["a"] / len(module.train) == pytest.approx(0.7, abs=0.01)
    assert [source.used for source in module.report.sources] == [counts["a"], counts["b"]]
    shown = [cell for column in module.report.table().columns for cell in column.cells]
    assert f"{counts['a'] / len(module.train):.1%}" in shown


def test_a_weight_that_could_not_count_is_refused(prepare: Prepare, tmp_path: Path) -> None:
    listed(tmp_path, a={"weight": 2})
    with pytest.raises(ConfigError, match=r"weight \(of dataset 'a'\): needs a mix_strategy that interleaves"):
        prepare(dataset="a,c")
    with pytest.raises(ConfigError, match="cannot be combined with interleave_probs"):
        prepare(dataset="a,c", mix_strategy="interleave_under", interleave_probs="1,2")
    for wrong in (0, -1, "1", True, float("inf")):
        listed(tmp_path, a={"weight": wrong})
        with pytest.raises(ConfigError, match=r"dataset_info\.json, 'a': weight is .*, expected a number above 0"):
            prepare(dataset="a")


def test_repeat_gives_every_row_that_often(prepare: Prepare, tmp_path: Path) -> None:
    listed(tmp_path, c={"repeat": 3})
    rows = prepare(dataset="c", val_size=10).train
    counts = Counter(map(tuple, rows["input_ids"]))
    assert len(counts) == 20
    assert set(counts.values()) == {3}


def test_duplicates_go_on_request_and_are_counted(prepare: Prepare, tmp_path: Path) -> None:
    rows = [{"instruction": f"q{i}", "output": "x"} for i in range(30)]
    one = write_jsonl(tmp_path / "one.jsonl", rows + rows[:7])
    two = write_jsonl(tmp_path / "two.jsonl", [*rows[20:], {"instruction": "q0", "output": "y"}])
    assert len(prepare(dataset=f"{one},{two}").train) == 48
    module = prepare(dataset=f"{one},{two}", deduplicate=True)
    assert len(module.train) == len({(tuple(row["input_ids"]), tuple(row["labels"])) for row in module.train}) == 31
    assert [source.duplicates for source in module.report.sources] == [7, 10]
    assert module.report.notes() == [f"left out of {one}: 7 duplicates", f"left out of {two}: 10 duplicates"]
    split = prepare(dataset=one, deduplicate=True, val_size=0.5)
    held = {tuple(row) for row in split.eval[""]["input_ids"]}
    train = {tuple(row) for row in split.train["input_ids"]}
    assert len(held) + len(train) == 30
    assert not held & train, "no held-out row is trained on"
    with pytest.raises(ConfigError, match="has no row left"):
        prepare(dataset=f"{one},{one}", deduplicate=True, mix_strategy="interleave_under")


@pytest.mark.parametrize(
    ("strategy", "asked"),
    [("interleave_under", 0.6), pytest.param("interleave_once", 0.5, marks=pytest.mark.slow)],
)
def test_interleaved_rows_come_in_a_new_order_each_epoch(
    prepare: Prepare, tmp_path: Path, strategy: str, asked: float
) -> None:
    """Asked shares hold over the whole epoch and along the way, in every epoch, and a seed fixes them."""
    for name, number in (("x", 20_000), ("y", 20_000)):
        write_jsonl(tmp_path / f"{name}.jsonl", [{"instruction": f"{name}{i}", "output": "z"} for i in range(number)])
    names = ",".join(str(tmp_path / f"{name}.jsonl") for name in "xy")
    keys = {"dataset": names, "mix_strategy": strategy, "interleave_probs": "3,2", "cutoff_len": 32}
    source = np.array([path.endswith("x.jsonl") for path in prepare(**keys).train["source"]])
    assert source.mean() == pytest.approx(asked, abs=0.01)
    orders = []
    for epoch in (0, 1, 0):
        sampler = MicroBatches(len(source), 8, seed=4)
        sampler.set_epoch(epoch)
        order = [row for batch in sampler for row in batch]
        assert source[order[:10_000]].mean() == pytest.approx(asked, abs=0.02)
        orders.append(order)
    assert orders[0] == orders[2] != orders[1]
