# SPDX-License-Identifier: Apache-2.0
"""Preparing data against LLaMA-Factory 0.9.5: from the start of the command to the saved ``tokenized_path``.

Called by ``benchmarks/data.py --reference``. Both read the same jsonl file and YAML keys. The reference's ``train`` is
stopped when the data is saved; our ``preprocess`` ends by itself. Nothing is kept between runs.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import yaml
from reference_env import make_environment
from training import CACHE, local_model


def compare(path: Path, rows: int, rounds: int) -> None:
    """Alternate both sides with one and two workers; print the best of each."""
    environment, model = make_environment(CACHE), local_model()
    sides = {
        "LLaMA-Factory 0.9.5": [environment / "bin" / "llamafactory-cli", "train"],
        "llamafactory": [sys.executable, "-m", "llamafactory.cli", "preprocess"],
    }
    seconds: dict[tuple[str, int], list[float]] = {}
    for _ in range(rounds):
        for workers in (1, 2):
            for name, command in sides.items():
                work = path.parent / "side"
                work.mkdir()
                try:
                    taken = timed([*command, _config(work, path, model, workers)], work)
                finally:
                    shutil.rmtree(work)
                seconds.setdefault((name, workers), []).append(taken)
                print(f"{name}, {workers} workers: {taken:.1f} s", file=sys.stderr)
    theirs, ours = sides
    print(f"\n| start of the command to saved data, {rows:,} rows | {theirs}, s | {ours}, s | theirs / ours |")
    print("|---|---|---|---|")
    for workers in (1, 2):
        a, b = (min(seconds[name, workers]) for name in (theirs, ours))
        print(f"| `preprocessing_num_workers: {workers}` | {a:.1f} | {b:.1f} | {a / b:.1f} |")


def timed(command: list[str | Path], work: Path) -> float:
    """Wall seconds of a command that must leave saved data."""
    variables = {
        **os.environ,
        "DISABLE_VERSION_CHECK": "1",
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(work / "hf"),  # no data set cache of an earlier run
        "CUDA_VISIBLE_DEVICES": "",
    }
    if command[0] != sys.executable:  # the other side must not import this project
        variables.pop("PYTHONPATH", None)
    start = time.perf_counter()
    with open(work / "log", "wb") as log:
        process = subprocess.Popen(command, env=variables, stdout=log, stderr=subprocess.STDOUT)
        # The reference goes on to train; `state.json` is the last file of a saved split.
        while process.poll() is None and not (
            command[0] != sys.executable and (work / "tokens/train/state.json").exists()
        ):
            time.sleep(0.05)
        seconds = time.perf_counter() - start
        process.terminate()
        process.wait()
    if not list((work / "tokens").rglob("*.arrow")):
        sys.exit(f"{' '.join(map(str, command))} saved nothing:\n{(work / 'log').read_text()[-3000:]}")
    return seconds


def _config(work: Path, path: Path, model: Path, workers: int) -> Path:
    """The one YAML that both sides read, with a ``dataset_info.json`` beside it."""
    (work / "dataset_info.json").write_text(json.dumps({"rows": {"file_name": str(path)}}))
    keys = {
        "model_name_or_path": str(model),
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "lora",
        "dataset": "rows",
        "dataset_dir": str(work),
        "template": "chatml",
        "cutoff_len": 2048,
        "preprocessing_num_workers": workers,
        "tokenized_path": str(work / "tokens"),
        "output_dir": str(work / "out"),
        "report_to": "none",
    }
    config = work / "config.yaml"
    config.write_text(yaml.safe_dump(keys))
    return config
