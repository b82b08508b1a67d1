# SPDX-License-Identifier: Apache-2.0
"""Gradient accumulation costs no memory: a micro-batch is gone before the next one is computed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from .conftest import Keys
from .pairs import pair_set

MICRO_BATCHES = 128
_RUN = """
import json, resource, sys
from llamafactory.train.tuner import run_exp
run_exp(json.loads(sys.argv[1]))
print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def _peak(given: dict[str, Any]) -> float:
    """Return the most MiB that a run in a process of its own held."""
    done = subprocess.run(
        [sys.executable, "-c", _RUN, json.dumps(given)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return float(done.stdout.rsplit("peak", 1)[1])


@pytest.mark.slow
def test_peak_memory_is_flat_over_gradient_accumulation(keys: Keys, tmp_path: Path) -> None:
    """The same 128 micro-batches as 128, 8 and 1 steps; one holds some 8 MiB for backward, all would hold a GiB."""
    words = "fox rain star river " * 12
    rows = [
        {"instruction": f"{number} {words}", "chosen": f"a {words}", "rejected": f"the {words}"}
        for number in range(2 * MICRO_BATCHES)
    ]
    sets = pair_set(tmp_path, rows)
    peaks = {}
    for accumulation in (1, 16, 128):
        given = keys(
            stage="dpo", finetuning_type="full", output_dir=str(tmp_path / str(accumulation)), cutoff_len=512,
            per_device_train_batch_size=2, gradient_accumulation_steps=accumulation,
            max_steps=MICRO_BATCHES // accumulation, **sets,
        )  # fmt: skip
        peaks[accumulation] = _peak(given)
    print(peaks)
    assert max(peaks.values()) - min(peaks.values()) < 100, peaks
