# SPDX-License-Identifier: Apache-2.0
"""The example file for films trains as it stands, a tiny model in place of the weights."""

from pathlib import Path

import pytest
from media_models import build
from train.test_media_examples import train_example

pytestmark = pytest.mark.vision


def test_the_example_trains(tiny_llama: Path, tmp_path: Path) -> None:
    model = build("qwen2_5_vl", tmp_path / "model", tiny_llama)
    found = train_example("train_lora/qwen2_5vl_lora_sft_video.yaml", model, tmp_path / "out")
    assert len(found) == 3 and all(0 < loss < 20 and norm > 0 for _, loss, norm in found)
