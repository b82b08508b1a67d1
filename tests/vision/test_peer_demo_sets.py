# SPDX-License-Identifier: Apache-2.0
"""LLaMA-Factory's own demo sets and example files train as they stand, a tiny model in place of the weights.

They are read from its source archive, which is downloaded when the tests run: data and configurations, no code.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import media_models
import pytest
import yaml
from train.running import curve, train

from . import families

pytestmark = pytest.mark.vision

NAME = "llamafactory-0.9.5"
# What a tiny model on a CPU is given in place of a checkpoint on GPUs; all else is as the file says.
SMALL = {"bf16": False, "max_steps": 3, "logging_steps": 1, "save_strategy": "no", "plot_loss": False}
SMALL |= {"overwrite_cache": True, "preprocessing_num_workers": 1, "dataloader_num_workers": 0}


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archive")
    download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "llamafactory"]
    done = subprocess.run([*download, NAME.replace("-", "=="), "-d", folder], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"the source archive cannot be had: {done.stderr.strip().splitlines()[-1]}")
    with tarfile.open(folder / f"{NAME}.tar.gz") as tar:
        wanted = [
            member
            for member in tar.getmembers()
            if member.name.startswith((f"{NAME}/data/", f"{NAME}/examples/")) and not member.name.endswith(".py")
        ]
        tar.extractall(folder, wanted, filter="data")
    return folder / NAME


def build(family: str, tokenizer: Path, folder: Path) -> Path:
    return (families if family in families.FAMILIES else media_models).build(family, folder, tokenizer)


def assert_trains(keys: dict[str, Any]) -> None:
    found = curve(train(keys))
    assert len(found) == 3 and all(0 < loss < 20 and norm > 0 for _, loss, norm in found)


@pytest.mark.parametrize(
    ("name", "family", "template"),
    [
        ("mllm_demo", "qwen2_5_vl", "qwen2_vl"),
        ("mllm_video_demo", "qwen2_5_vl", "qwen2_vl"),
        ("mllm_audio_demo", "qwen2_audio", "qwen2_audio"),
        ("mllm_video_audio_demo", "qwen2_5_omni_thinker", "qwen2_omni"),
    ],
)
def test_a_demo_set_trains(
    name: str, family: str, template: str, archive: Path, tiny_llama: Path, tmp_path: Path
) -> None:
    keys = {"model_name_or_path": str(build(family, tiny_llama, tmp_path / "model")), "template": template}
    keys |= {"dataset": name, "dataset_dir": str(archive / "data"), "output_dir": str(tmp_path / "out")}
    assert_trains(keys | SMALL | {"stage": "sft", "finetuning_type": "lora", "cutoff_len": 16384})


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("train_lora/qwen3vl_lora_sft.yaml", "qwen3_vl"),
        ("train_full/qwen3vl_full_sft.yaml", "qwen3_vl"),
        ("extras/oft/qwen2_5vl_oft_sft.yaml", "qwen2_5_vl"),
    ],
)
def test_an_example_file_trains(name: str, family: str, archive: Path, tiny_llama: Path, tmp_path: Path) -> None:
    keys = yaml.safe_load((archive / "examples" / name).read_text("utf-8"))
    keys.pop("deepspeed", None)
    own = {"model_name_or_path": str(build(family, tiny_llama, tmp_path / "model")), "max_samples": 12}
    own |= {"output_dir": str(tmp_path / "out"), "dataset_dir": str(archive / "data")}
    assert_trains(keys | SMALL | own | {"gradient_accumulation_steps": 2})
