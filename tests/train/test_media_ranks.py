# SPDX-License-Identifier: Apache-2.0
"""Two ranks of which one has text alone train as one process does, and neither waits for the other for ever."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from media_models import build
from safetensors.torch import load_file

SCRIPT = Path(__file__).parent / "media_ranks.py"


def trained(model: Path, out: Path, ranks: int, **env: str) -> dict[str, torch.Tensor]:
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"] if ranks > 1 else []
    result = subprocess.run(
        [sys.executable, *launcher, str(SCRIPT), str(model), str(out)],
        env={**os.environ, "OMP_NUM_THREADS": "1", **env},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return load_file(out)


@pytest.mark.slow
def test_a_rank_without_media_is_not_waited_for(tiny_llama: Path, tmp_path: Path) -> None:
    model = build("qwen2_vl", tmp_path / "model", tiny_llama)
    begun = load_file(model / "model.safetensors")
    one = trained(model, tmp_path / "one", 1)
    tower = [name for name in begun if name.endswith("qkv.weight")]  # in the file without the decoder's prefix
    assert tower and not any(torch.equal(one[f"model.{name}"], begun[name]) for name in tower)
    for name, env in {"ddp": {}, "parts": {"SHARDED": "1"}}.items():
        two = trained(model, tmp_path / name, 2, **env)
        assert two.keys() == one.keys()
        for weight, value in one.items():
            torch.testing.assert_close(two[weight], value, rtol=0, atol=1e-5, msg=f"{name}: {weight}")
