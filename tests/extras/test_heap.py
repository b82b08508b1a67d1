# SPDX-License-Identifier: Apache-2.0
"""Memory that goes back, by the kernel's count."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

_GAPS = """
import torch
from pathlib import Path
from llamafactory.extras.heap import give_back_gaps

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

torch.ones(1)
tensors = [torch.ones(MIB << 18) for _ in range(64 // MIB)]
kept = tensors[::2]
del tensors
before = resident()
give_back_gaps()
assert all(bool((tensor == 1).all()) for tensor in kept)
print((before - resident()) >> 20)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="another C library than glibc")
@pytest.mark.parametrize("size", [1, 4])
def test_gaps_between_tensors_go_back(size: int) -> None:
    """Every second tensor of 64 MiB is freed: of these 32 MiB most go back, and nothing that is in use."""
    # Without a bound of our own glibc keeps what has once been freed; here it shall from the first tensor on.
    env = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(32 << 20), "PYTHONPATH": str(Path("src").resolve())}
    done = subprocess.run(
        [sys.executable, "-c", _GAPS.replace("MIB", str(size))], env=env, capture_output=True, text=True, check=True
    )
    assert 16 <= int(done.stdout) <= 33
