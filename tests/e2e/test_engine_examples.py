# SPDX-License-Identifier: Apache-2.0
"""Examples for several processes: each has a row in ``docs/support.md``, is read, and runs where it can run here."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from llamafactory.hparams import get_train_args

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
FOLDERS = ("accelerate", "deepspeed", "extras/fsdp_qlora", "megatron", "ascend")
FILES = sorted(
    str(path.relative_to(EXAMPLES)) for folder in FOLDERS for path in (EXAMPLES / folder).rglob("*") if path.is_file()
)
RUNS = [name for name in FILES if name.startswith(("extras/", "ascend/"))]


def test_the_page_has_a_row_for_each_file() -> None:
    page = (ROOT / "docs" / "support.md").read_text("utf-8")
    [table] = re.findall(r"^## Examples for several processes\n((?:.|\n)*?)(?=^## )", page, re.M)
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `examples/")]
    assert sorted(name for row in rows for name in re.findall(r"`examples/([^`]+)`", row)) == FILES


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_read(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "0")  # a process of several
    path = EXAMPLES / name
    run = {"model_name_or_path": "org/tiny", "dataset": "identity", "finetuning_type": "full"}
    if name.startswith("deepspeed"):
        args = get_train_args({**run, "deepspeed": str(path)})
    elif name.startswith("accelerate"):
        args = get_train_args({**run, "fsdp_config": str(path)})
    else:
        args = get_train_args(yaml.safe_load(path.read_text("utf-8")))
    assert args.training.deepspeed or args.training.fsdp_config or args.training.do_train


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_two_steps_of_two_processes(name: str, tmp_path: Path) -> None:
    """The file as it stands on SmolLM2, but for lengths and places."""
    small = {"output_dir": str(tmp_path / "run"), "max_steps": 2, "max_samples": 16, "cutoff_len": 64}
    small |= {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 1, "logging_steps": 1}
    small |= {"save_strategy": "no"}
    words = [f"{key}={value}" for key, value in {**small, "use_cpu": "true"}.items()]
    done = subprocess.run(
        [sys.executable, "-m", "llamafactory", "train", str(EXAMPLES / name), *words],
        env={**os.environ, "FORCE_TORCHRUN": "1", "NPROC_PER_NODE": "2", "OMP_NUM_THREADS": "1"},
        cwd=ROOT, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert len((tmp_path / "run" / "trainer_log.jsonl").read_text("utf-8").splitlines()) >= 2
