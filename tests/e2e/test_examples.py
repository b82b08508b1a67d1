# SPDX-License-Identifier: Apache-2.0
"""Every example of a training method learns on the real model that it names, as the file stands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from llamafactory.train.tuner import run_exp

REPOSITORY = Path(__file__).resolve().parents[2]
FOLDERS = ("train_full", "train_freeze", "train_lora", "train_qlora", "extras", "ascend")
FILES = {
    str(path.relative_to(REPOSITORY / "examples")): yaml.safe_load(path.read_text("utf-8"))
    for folder in FOLDERS
    for path in sorted((REPOSITORY / "examples" / folder).rglob("*.yaml"))
}
# Rewards are no losses: those stages have tests of their own, and so have Ray and rows that are shared. The others
# name models of elsewhere.
HERE = [
    name
    for name, keys in FILES.items()
    if keys.get("do_train")
    and not keys.get("use_ray")
    and not keys.get("context_parallel_size")
    and not keys.get("tensor_parallel_size")
    and not keys.get("fsdp")
    and keys["stage"] not in ("ppo", "grpo")
    and keys["model_name_or_path"].startswith("pkg://")
]

LEFT_OUT = ("warmup_ratio", "val_size", "eval_strategy", "eval_steps")  # nothing can be held out of four rows


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", HERE)
def test_the_loss_of_an_example_falls(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight steps on few rows, several times over: only lengths and places differ from the file."""
    monkeypatch.chdir(REPOSITORY)
    small = {"output_dir": str(tmp_path / "run"), "max_steps": 8, "max_samples": 4, "cutoff_len": 128}
    small |= {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 1, "logging_steps": 1}
    small |= {"save_strategy": "no", "disable_tqdm": True, "lr_scheduler_type": "constant", "warmup_steps": 0}
    if FILES[name]["finetuning_type"] == "adalora":  # whose ranks are given away between two steps of the run
        small["peft_config"] = {**FILES[name].get("peft_config", {}), "tinit": 1, "tfinal": 2}
    run_exp({key: value for key, value in FILES[name].items() if key not in LEFT_OUT} | small)
    lines = (tmp_path / "run" / "trainer_log.jsonl").read_text("utf-8").splitlines()
    losses = [row.get("nll", row["loss"]) for row in map(json.loads, lines) if row.get("loss") is not None]
    # Rows take turns where a step does not hold them all.
    assert sum(losses[4:]) < sum(losses[:4]) and len(losses) == 8, losses
