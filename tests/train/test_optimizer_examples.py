# SPDX-License-Identifier: Apache-2.0
"""The examples of optimizers, losses and tricks train: each file as it stands, on a small model."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from .conftest import Keys
from .running import log_of, train

EXTRAS = Path(__file__).parents[2] / "examples" / "extras"
FOLDERS = ("galore", "apollo", "badam", "adam_mini", "muon", "losses", "lisa", "spectrum", "longlora")
FILES = sorted(path for folder in FOLDERS for path in (EXTRAS / folder).glob("*.yaml"))


@pytest.mark.slow
@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_the_loss_of_an_example_falls(keys: Keys, path: Path, tmp_path: Path) -> None:
    here = keys()
    small = {name: here[name] for name in ("model_name_or_path", "dataset", "template", "output_dir", "disable_tqdm")}
    small["cache_dir"] = str(tmp_path)  # what Spectrum finds goes there
    given = yaml.safe_load(path.read_text("utf-8")) | small
    run = train(given | {"learning_rate": 3e-3, "logging_steps": 1, "max_steps": 10, "save_strategy": "no"})
    # DFT's own loss is -p log p, which grows with p while p is small: what falls is the cross-entropy beside it.
    losses = [row.get("nll", row["loss"]) for row in log_of(run) if "loss" in row]
    assert sum(losses[-3:]) < sum(losses[:3])
