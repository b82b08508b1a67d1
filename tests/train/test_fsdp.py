# SPDX-License-Identifier: Apache-2.0
"""A model that is cut into parts trains as one process trains it: loss, gradient norm, weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from .conftest import Keys
from .pairs import pair_set
from .running import curve, train, train_elsewhere, weights_of

HYBRID = {"fsdp": "hybrid_shard", "fsdp_config": {"dp_replicate_size": 2}}
FULL = {"fsdp": "full_shard auto_wrap"}


def assert_same(one: Path, other: Path) -> None:
    """Equal within 1e-5, in float32."""
    first, second = curve(one), curve(other)
    assert [step for step, *_ in first] == [step for step, *_ in second]
    for (_, *ours), (_, *theirs) in zip(first, second, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5, abs=1e-5)
    theirs = weights_of(other)
    assert theirs.keys() == weights_of(one).keys()
    for name, weight in weights_of(one).items():
        torch.testing.assert_close(weight, theirs[name], rtol=1e-5, atol=1e-5, msg=name)


def assert_cut(path: Path, ranks: int, shards: int) -> None:
    """Every rank holds one part in ``shards`` of the weights and of the optimizer's state, within rounding."""
    for rank in range(ranks):
        found = json.loads(path.with_suffix(f".{rank}").read_text())
        assert found["cut"]
        for held, whole in zip(found["held"], found["whole"], strict=True):
            assert 0 < held < 1.1 * whole / shards


def run(given: dict[str, Any], ranks: int, place: Path, **env: str) -> Path:
    """Train on ranks with the batch of one process."""
    batch = given["per_device_train_batch_size"] // ranks
    result = train_elsewhere(
        given | {"output_dir": str(place), "per_device_train_batch_size": batch}, ranks=ranks, **env
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return place


def _cells() -> list[Any]:
    """The core is always tried: one row of each tuner."""
    quick = {("full_shard", "lora", "sft"), ("full_shard", "full", "dpo")}
    return [
        pytest.param(*cell, marks=[] if cell in quick else pytest.mark.slow, id="-".join(cell))
        for cell in ((s, k, t) for s in ("full_shard", "hybrid") for k in ("full", "lora") for t in ("sft", "dpo"))
    ]


@pytest.mark.parametrize(("sharding", "kind", "stage"), _cells())
def test_parts_train_as_one_process(keys: Keys, tmp_path: Path, sharding: str, kind: str, stage: str) -> None:
    data: dict[str, Any] = {"packing": True} if stage == "sft" else pair_set(tmp_path)
    given = keys(finetuning_type=kind, stage=stage, **data)
    one = train(given | {"output_dir": str(tmp_path / "one")})
    ranks, words = (2, FULL) if sharding == "full_shard" else (4, HYBRID)
    other = run(given | words, ranks, tmp_path / "parts", PARTS=str(tmp_path / "held"))
    assert_same(one, other)
    assert_cut(tmp_path / "held", ranks, 2)
