# SPDX-License-Identifier: Apache-2.0
"""Without a hub it is said at once that there is none."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    "keys", [["model_name_or_path=nobody/nothing", "dataset=identity"], ["dataset=nobody/rows", "dataset_dir=ONLINE"]]
)
def test_no_hub_is_said_at_once(keys: list[str], tiny_llama: Path, tmp_path: Path) -> None:
    words = [f"model_name_or_path={tiny_llama}", "template=chatml", f"output_dir={tmp_path / 'o'}", *keys]
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    environment |= {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path / "hf")}
    done = subprocess.run(
        [sys.executable, "-m", "llamafactory", "preview", *_last(words)],
        env=environment, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.returncode == 1 and done.stderr.count("no hub at 127.0.0.1:9") == 1, done.stderr[-2000:]
    assert done.stderr.splitlines()[-1].startswith("error: ")


def _last(words: list[str]) -> list[str]:
    """Of words for the same key the last one."""
    return [f"{key}={value}" for key, value in dict(word.split("=", 1) for word in words).items()]
