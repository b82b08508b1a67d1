# SPDX-License-Identifier: Apache-2.0
"""Elastic launch: a worker that is killed does not end the run; it goes on from the last whole checkpoint."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml

STEPS, SAVE_STEPS = 200, 20
TIMEOUT_SECONDS = 240


def _worker(parent: psutil.Process, local_rank: str) -> psutil.Process | None:
    for child in parent.children(recursive=True):
        try:
            if child.environ().get("LOCAL_RANK") == local_rank:
                return child
        except psutil.Error:  # ended between the listing and the look
            continue
    return None


def _wait_for(path: Path, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not path.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            pytest.fail(f"the run ended before {path.name} appeared:\n{log.read_text()[-3000:]}")
        time.sleep(0.02)


@pytest.mark.slow
def test_elastic_run_survives_kill_of_a_worker(tiny_llama: Path, tmp_path: Path) -> None:
    rows = [{"instruction": f"Count to {n}.", "output": " ".join(map(str, range(n)))} for n in range(1, 33)]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    output_dir, log = tmp_path / "out", tmp_path / "log.txt"
    config = tmp_path / "config.yaml"
    config.write_text(
        yaml.safe_dump(
            {
                "model_name_or_path": str(tiny_llama),
                "template": "chatml",
                "stage": "sft",
                "do_train": True,
                "finetuning_type": "lora",
                "bf16": False,
                "dataset": str(tmp_path / "rows.json"),
                "output_dir": str(output_dir),
                "overwrite_output_dir": True,
                "per_device_train_batch_size": 2,
                "max_steps": STEPS,
                "save_steps": SAVE_STEPS,
                "save_total_limit": 2,
                "logging_steps": 10,
                "report_to": "none",
            }
        )
    )
    environment = {
        **os.environ,
        "FORCE_TORCHRUN": "1",
        "RDZV_ID": "elastic-test",
        "MIN_NNODES": "1",
        "MAX_NNODES": "1",
        "NPROC_PER_NODE": "2",
        "MAX_RESTARTS": "2",
    }
    with log.open("wb") as file:
        command = [sys.executable, "-m", "llamafactory.cli", "train", str(config)]
        process = subprocess.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT)
    try:
        _wait_for(output_dir / f"checkpoint-{SAVE_STEPS}", process, log)
        victim = _worker(psutil.Process(process.pid), local_rank="1")
        assert victim is not None, "no worker with LOCAL_RANK=1 is running"
        victim.send_signal(signal.SIGKILL)
        assert process.wait(TIMEOUT_SECONDS) == 0, log.read_text()[-3000:]
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(30)

    state = json.loads((output_dir / "trainer_state.json").read_text())
    assert state["global_step"] == STEPS
    logged = [entry["step"] for entry in state["log_history"] if "loss" in entry]
    assert logged == sorted(set(logged)), "a step was counted twice"
    text = log.read_text()
    assert "checkpoint-" in text and "esum" in text, "the restarted workers did not say what they resumed from"
    assert (output_dir / "adapter_model.safetensors").exists()
