# SPDX-License-Identifier: Apache-2.0
"""Schedule-free optimizers (Defazio et al. 2024, arXiv:2405.15682) train at one point and find another, an average."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def take_average(optimizer: Any) -> bool:
    """Let the model have the average; whether it had not. Other optimizers have only one point."""
    groups = [] if optimizer is None else optimizer.param_groups
    training = any(group.get("train_mode") for group in groups)
    if training:
        optimizer.eval()
    return training


@contextmanager
def averaged(optimizer: Any) -> Iterator[None]:
    """Inside the block the model has the average, to be evaluated or saved."""
    training = take_average(optimizer)
    try:
        yield
    finally:
        if training:
            optimizer.train()
