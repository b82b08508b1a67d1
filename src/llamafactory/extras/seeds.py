# SPDX-License-Identifier: Apache-2.0
"""One seed for every source of chance."""

from __future__ import annotations

import os
import random


def set_seed(seed: int, deterministic: bool = False) -> None:
    """Seed Python, numpy and torch on every device.

    Args:
        seed: Any integer; numpy takes its low 32 bits.
        deterministic: Allow deterministic kernels only; an operation without one raises.
    """
    import numpy
    import torch

    random.seed(seed)
    numpy.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":16:8")
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False
