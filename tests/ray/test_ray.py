# SPDX-License-Identifier: Apache-2.0
"""Training in Ray's workers: a killed one is started again, and the run ends as if nothing had been."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from safetensors.torch import load_file

pytestmark = pytest.mark.ray
ROOT = Path(__file__).parents[2]
SECONDS = 400


def start(folder: Path, model: Path, **more: Any) -> tuple[subprocess.Popen[bytes], Path]:
    folder.mkdir()
    rows = [{"instruction": f"Count to {n}.", "output": " ".join(map(str, range(n)))} for n in range(1, 33)]
    (folder / "rows.json").write_text(json.dumps(rows))
    keys = {
        "model_name_or_path": str(model), "dataset": str(folder / "rows.json"), "template": "chatml", "bf16": False,
        "output_dir": str(folder / "out"), "max_steps": 60, "save_steps": 10, "logging_steps": 10, "lora_dropout": 0.1,
        "per_device_train_batch_size": 2, "finetuning_type": "lora", "ray_num_workers": 2, **more,
    }  # fmt: skip
    (folder / "config.yaml").write_text(yaml.safe_dump(keys))
    log = folder / "log.txt"
    with log.open("wb") as file:
        command = [sys.executable, "-m", "llamafactory", "train", str(folder / "config.yaml")]
        variables = {**os.environ, "USE_RAY": "1", "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(command, env=variables, stdout=file, stderr=subprocess.STDOUT), log


def workers(parent: int) -> list[psutil.Process]:
    """The processes that train. Ray's daemons are children of the run's process, and workers are theirs."""
    return [
        one for one in psutil.Process(parent).children(recursive=True) if "RayTrainWorker" in " ".join(one.cmdline())
    ]


def test_a_killed_worker_changes_nothing(tiny_llama: Path, tmp_path: Path) -> None:
    plain, log = start(tmp_path / "plain", tiny_llama)
    assert plain.wait(SECONDS) == 0, log.read_text()[-3000:]
    killed, log = start(tmp_path / "killed", tiny_llama)
    deadline = time.monotonic() + SECONDS
    while not (tmp_path / "killed" / "out" / "checkpoint-10").exists():
        assert killed.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]
        time.sleep(0.02)
    victims = workers(killed.pid)
    assert len(victims) == 2
    victims[1].kill()
    assert killed.wait(SECONDS) == 0, log.read_text()[-3000:]
    assert "resuming from" in log.read_text()
    left = [load_file(tmp_path / name / "out" / "adapter_model.safetensors") for name in ("plain", "killed")]
    assert left[0].keys() == left[1].keys()
    assert all(left[0][name].equal(left[1][name]) for name in left[0])
    state = json.loads((tmp_path / "killed" / "out" / "trainer_state.json").read_text())
    steps = [entry["step"] for entry in state["log_history"] if "loss" in entry]
    assert state["global_step"] == 60 and steps == sorted(set(steps))


def test_a_mistake_is_one_line_and_is_not_tried_again(tiny_llama: Path, tmp_path: Path) -> None:
    child, log = start(tmp_path / "run", tiny_llama, dataset="./gone.json", dataset_dir=str(tmp_path))
    assert child.wait(SECONDS) == 1
    last = log.read_text().rstrip().splitlines()[-1]
    assert last.startswith("error: ") and "gone.json" in last, log.read_text()[-3000:]


def test_more_workers_than_there_is_room_for(tiny_llama: Path, tmp_path: Path) -> None:
    child, log = start(tmp_path / "run", tiny_llama, resources_per_worker={"GPU": 7})
    assert child.wait(SECONDS) == 1
    last = log.read_text().rstrip().splitlines()[-1]
    assert last.startswith("error: ray_num_workers: 2 workers need 14 GPU, Ray has "), log.read_text()[-3000:]


def test_the_example_runs(tmp_path: Path) -> None:
    """SmolLM2 in two workers, as the file stands but for its length."""
    example = ROOT / "examples" / "train_lora" / "smollm2_lora_sft_ray.yaml"
    words = [f"output_dir={tmp_path / 'out'}", "max_steps=2"]
    command = [sys.executable, "-m", "llamafactory", "train", str(example), *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    for name in ("adapter_model.safetensors", "train_results.json", "trainer_log.jsonl", "run_manifest.json"):
        assert (tmp_path / "out" / name).is_file()
    assert json.loads((tmp_path / "out" / "run_manifest.json").read_text())["world_size"] == 2
